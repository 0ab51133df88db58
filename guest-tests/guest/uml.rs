//! A User-mode Linux guest: a Linux kernel that is a process, and whose virtio_uml driver is a
//! vhost-user front-end of its own, written apart from QEMU's. It has one queue.

use std::path::PathBuf;

use super::agent::Agent;
use super::daemon::Daemon;
use super::fio::{Fio, Report};
use super::process::{Process, show_last_words};
use super::vm::{BOOT, WORK};
use super::{Session, made};

/// The device id of a block device (virtio 1.3, 5).
const BLOCK: u32 = 2;

/// A running guest. Dropping it kills it: this kernel has no other quick end.
pub(crate) struct Uml {
    process: Process,
    /// The way into the guest.
    pub(crate) agent: Agent,
    console: PathBuf,
}

impl Uml {
    /// Starts a guest with the daemon's disk as /dev/vda and waits until its agent is up.
    pub(crate) fn start(session: &Session, name: &str, daemon: &Daemon) -> Self {
        let tree = made("uml/root/usr");
        let console = session.file(&format!("{name}.console"));
        let socket = daemon.socket().display();
        // In its own directory because the program's loader is given by a relative path.
        let arguments: Vec<String> = [
            format!("-C{}", tree.display()),
            "LD_LIBRARY_PATH=lib/x86_64-linux-gnu".to_string(),
            "bin/linux.uml".to_string(),
            "mem=512M seccomp=on rdinit=/init initrd=../../initramfs blkmq.channel=/dev/ttyS0"
                .to_string(),
            // Nothing but the agent on stdin and stdout; the console on stderr.
            "con=null con0=null,fd:2 ssl=null ssl0=fd:0,fd:1".to_string(),
            format!("uml_dir={} umid={name}", console.with_extension("uml").display()),
            format!("virtio_uml.device={socket}:{BLOCK}"),
        ]
        .iter()
        .flat_map(|words| words.split(' '))
        .map(str::to_string)
        .collect();
        let (process, input, output) =
            Process::start_piped("User-mode Linux", "env".as_ref(), &arguments, console.clone());
        let mut agent = Agent::new(output, input);
        agent.ready(BOOT);
        Uml { process, agent, console }
    }

    /// Runs shell text in the guest, which must succeed.
    pub(crate) fn sh(&mut self, script: &str) -> String {
        self.agent.run(script, WORK)
    }

    /// Runs fio to its end; it must find nothing wrong.
    pub(crate) fn fio(&mut self, fio: &Fio) -> Report {
        let done = self.agent.attempt(&fio.script(), WORK);
        assert_eq!(done.status, 0, "fio failed: {}", done.output);
        Report::parse(&done.output)
    }

    /// Ends the guest.
    pub(crate) fn kill(mut self) {
        self.process.kill();
    }
}

impl Drop for Uml {
    fn drop(&mut self) {
        if std::thread::panicking() {
            show_last_words("the guest's console", &self.console);
        }
    }
}
