//! qemu-storage-daemon as the other user of an image: locks must work between it and us.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::daemon::{Ended, Scratch, eventually, finish, listens};

const PROGRAM: &str = "qemu-storage-daemon";

/// A running qemu-storage-daemon; killed when dropped.
pub(crate) struct Peer {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

fn command(image: &Path, socket: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("--blockdev");
    command.arg(format!("driver=file,node-name=f,filename={},locking=on", image.display()));
    command.arg("--export").arg(format!(
        "type=vhost-user-blk,id=e,node-name=f,writable=on,addr.type=unix,addr.path={}",
        socket.display()
    ));
    command
}

/// Whether the program is installed.
pub(crate) fn installed() -> bool {
    let found = Command::new(PROGRAM)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !found {
        super::note("qemu-storage-daemon is not installed: locks are not tried against it");
    }
    found
}

impl Peer {
    /// Exports `image` writable.
    pub(crate) fn start(scratch: &Scratch, image: &Path) -> Peer {
        let socket = scratch.unique(".qsd");
        let log = scratch.unique(".qsd.log");
        let output = File::create(&log).expect("a log can be created");
        let child = command(image, &socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            .spawn()
            .expect("it is installed");
        let peer = Peer { child, socket, log };
        let ready = eventually(Duration::from_secs(20), || listens(&peer.socket));
        assert!(ready, "no socket: {}", std::fs::read_to_string(&peer.log).unwrap_or_default());
        peer
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tries to export `image` writable and returns how that ended; panics if it went on.
pub(crate) fn refused(scratch: &Scratch, image: &Path) -> Ended {
    finish(command(image, &scratch.unique(".qsd")))
}
