//! A QEMU guest whose disks are vhost-user-blk devices.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use serde_json::json;

use super::agent::{Agent, Done, Job};
use super::daemon::Daemon;
use super::fio::{Fio, Report};
use super::process::{Process, show_last_words};
use super::qmp::Qmp;
use super::{Session, accelerator, made, made_text};

/// A boot takes about five seconds under emulation; a busy machine may need much longer.
pub(crate) const BOOT: Duration = Duration::from_secs(90);
/// For what a guest does at once.
pub(crate) const SOON: Duration = Duration::from_secs(30);
/// For a workload.
pub(crate) const WORK: Duration = Duration::from_secs(120);

/// Where the guest's first program comes from.
enum Boot {
    /// QEMU loads kernel and initramfs; the disk is only a disk. With more kernel parameters.
    Kernel(String),
    /// SeaBIOS reads the first disk.
    Bios,
    /// OVMF (UEFI) reads the first disk.
    Uefi,
}

/// A guest to be started.
pub(crate) struct Guest<'session> {
    session: &'session Session,
    name: &'static str,
    cpus: u32,
    boot: Boot,
    disks: Vec<(PathBuf, String)>,
    more: Vec<String>,
    reconnects: bool,
}

impl<'session> Guest<'session> {
    /// A guest with `cpus` CPUs that boots the test kernel directly.
    pub(crate) fn new(session: &'session Session, name: &'static str, cpus: u32) -> Self {
        let boot = Boot::Kernel(String::new());
        Guest { session, name, cpus, boot, disks: Vec::new(), more: Vec::new(), reconnects: false }
    }

    /// Adds parameters to the kernel's command line.
    pub(crate) fn parameters(mut self, more: &str) -> Self {
        self.boot = Boot::Kernel(more.to_string());
        self
    }

    /// Boots from the first disk by SeaBIOS.
    pub(crate) fn boot_by_bios(mut self) -> Self {
        self.boot = Boot::Bios;
        self
    }

    /// Boots from the first disk by OVMF.
    pub(crate) fn boot_by_uefi(mut self) -> Self {
        self.boot = Boot::Uefi;
        self
    }

    /// Adds a disk with that many queues: /dev/vda, /dev/vdb and so on.
    pub(crate) fn disk(self, daemon: &Daemon, queues: u32) -> Self {
        self.disk_with(daemon, &format!("num-queues={queues}"))
    }

    /// The same with QEMU properties of one's own.
    pub(crate) fn disk_with(self, daemon: &Daemon, properties: &str) -> Self {
        self.disk_at(daemon.socket(), properties)
    }

    /// The same for whoever listens on `socket`.
    pub(crate) fn disk_at(mut self, socket: &Path, properties: &str) -> Self {
        self.disks.push((socket.to_path_buf(), properties.to_string()));
        self
    }

    /// QEMU connects to its daemons again, every second, when they have gone.
    pub(crate) fn reconnecting(mut self) -> Self {
        self.reconnects = true;
        self
    }

    /// Adds words to QEMU's command line, behind the disks.
    #[allow(dead_code, reason = "only ci/bench has such a disk")]
    pub(crate) fn with(mut self, words: &[&str]) -> Self {
        self.more.extend(words.iter().map(ToString::to_string));
        self
    }

    /// Starts it and waits until its agent is up.
    pub(crate) fn start(self) -> Vm {
        let mut vm = self.launch();
        vm.boot_id = vm.agent.ready(BOOT);
        vm
    }

    fn launch(self) -> Vm {
        let (session, name) = (self.session, self.name);
        let monitor = Line::listen(session.socket(&format!("{name}.qmp")));
        let agent = Line::listen(session.socket(&format!("{name}.agent")));
        let console = session.file(&format!("{name}.console"));
        let arguments = self.arguments(&monitor.path, &agent.path, &console);
        let log = session.file(&format!("{name}.qemu"));
        let mut qemu = Process::start("QEMU", Path::new("qemu-system-x86_64"), &arguments, log);
        let agent = agent.accept(&mut qemu);
        let qmp = Qmp::new(monitor.accept(&mut qemu));
        let agent = Agent::new(agent.try_clone().expect("dup"), agent);
        Vm { qemu, qmp, agent, console, boot_id: String::new() }
    }

    fn arguments(&self, monitor: &Path, agent: &Path, console: &Path) -> Vec<String> {
        let accelerator = match accelerator() {
            "kvm" => "-accel kvm -cpu host",
            _ => "-accel tcg,thread=multi -cpu max",
        };
        let mut words: Vec<String> = format!(
            "-nodefaults -no-user-config -display none {accelerator} -smp {} -m 768M \
             -object memory-backend-memfd,id=ram,size=768M,share=on -machine q35,memory-backend=ram \
             -device pcie-root-port,id=root9,chassis=9 \
             -serial file:{} -chardev socket,id=agent,path={} -serial chardev:agent \
             -chardev socket,id=monitor,path={} -mon chardev=monitor,mode=control",
            self.cpus,
            console.display(),
            agent.display(),
            monitor.display(),
        )
        .split_whitespace()
        .map(str::to_string)
        .collect();
        let mut add = |option: &str, value: String| words.extend([option.to_string(), value]);
        for (index, (socket, properties)) in self.disks.iter().enumerate() {
            // A device on the root bus also offers the legacy interface, which UEFI would take.
            let first = match (&self.boot, index) {
                (Boot::Bios | Boot::Uefi, 0) => ",bootindex=0",
                _ => "",
            };
            let again = if self.reconnects { ",reconnect=1" } else { "" };
            add("-chardev", format!("socket,id=disk{index},path={}{again}", socket.display()));
            add(
                "-device",
                format!(
                    "vhost-user-blk-pci,chardev=disk{index},disable-legacy=on,{properties}{first}"
                ),
            );
        }
        match &self.boot {
            Boot::Kernel(more) => {
                add("-kernel", made("vmlinuz").display().to_string());
                add("-initrd", made("initramfs").display().to_string());
                add("-append", format!("{} {more}", made_text("cmdline")));
            }
            Boot::Bios => {}
            Boot::Uefi => add("-bios", "/usr/share/ovmf/OVMF.fd".to_string()),
        }
        words.extend(self.more.iter().cloned());
        words
    }
}

/// A socket of ours that QEMU connects to, so that nobody has to wait for QEMU's.
struct Line {
    listener: UnixListener,
    path: PathBuf,
}

impl Line {
    fn listen(path: PathBuf) -> Self {
        // A guest of the same name may have been here before.
        let _ = std::fs::remove_file(&path);
        Line { listener: UnixListener::bind(&path).expect("a socket"), path }
    }

    fn accept(self, qemu: &mut Process) -> UnixStream {
        let (sender, receiver) = channel();
        std::thread::spawn(move || sender.send(self.listener.accept()));
        let end = Instant::now() + SOON;
        loop {
            if let Ok(accepted) = receiver.recv_timeout(Duration::from_millis(100)) {
                return accepted.expect("accept").0;
            }
            let failed = !qemu.alive() || Instant::now() > end;
            if failed {
                // Releases the thread above.
                let _ = UnixStream::connect(&self.path);
                panic!("QEMU did not start: {}", qemu.output());
            }
        }
    }
}

/// A running guest. Dropping it kills it.
pub(crate) struct Vm {
    qemu: Process,
    /// QEMU's monitor.
    pub(crate) qmp: Qmp,
    /// The way into the guest.
    pub(crate) agent: Agent,
    console: PathBuf,
    boot_id: String,
}

impl Vm {
    /// QEMU's process.
    #[allow(dead_code, reason = "only ci/bench counts CPU time")]
    pub(crate) fn pid(&self) -> u32 {
        self.qemu.id()
    }

    /// Runs shell text in the guest, which must succeed soon.
    pub(crate) fn sh(&mut self, script: &str) -> String {
        self.agent.run(script, SOON)
    }

    /// The same for text that takes longer.
    pub(crate) fn work(&mut self, script: &str) -> String {
        self.agent.run(script, WORK)
    }

    /// Runs fio to its end; it must find nothing wrong.
    pub(crate) fn fio(&mut self, fio: &Fio) -> Report {
        let job = self.start_fio(fio);
        self.join_fio(job)
    }

    /// Starts fio in the background.
    pub(crate) fn start_fio(&mut self, fio: &Fio) -> Job {
        // Where busy() counts from.
        self.sh("for disk in /sys/block/vd*; do awk '{ print $1 + $5 }' $disk/stat >/tmp/busy.${disk##*/}; done");
        self.agent.start(&fio.script())
    }

    /// Waits for it; it must have found nothing wrong.
    pub(crate) fn join_fio(&mut self, job: Job) -> Report {
        let done = self.agent.join(job, WORK);
        assert_eq!(done.status, 0, "fio failed: {}", done.output);
        Report::parse(&done.output)
    }

    /// Waits for a job whose end may be bad.
    pub(crate) fn join(&mut self, job: Job) -> Done {
        self.agent.join(job, WORK)
    }

    /// Waits until the guest has finished `count` more requests on `disk` ("vda") than at the last
    /// such wait or at the start of the last fio, so that something is certainly in flight around
    /// now. It counts from there, not from when the guest got round to looking: a workload may be
    /// over before a guest whose CPUs are all busy with it looks for the first time.
    pub(crate) fn busy(&mut self, disk: &str, count: u64) {
        let script = format!(
            "sum() {{ awk '{{ print $1 + $5 }}' /sys/block/{disk}/stat; }}\n\
             end=$(($(cat /tmp/busy.{disk}) + {count})); while [ $(sum) -lt $end ]; do sleep 0.02; done\n\
             echo $end >/tmp/busy.{disk}"
        );
        self.work(&script);
    }

    /// Resets the machine as its reset button does, and waits until the guest is up again.
    pub(crate) fn reset(&mut self) {
        self.qmp.run("system_reset", json!({}));
        let boot_id = self.agent.ready(BOOT);
        assert_ne!(boot_id, self.boot_id, "the guest did not boot anew");
        self.boot_id = boot_id;
    }

    /// Ends the guest in the middle of whatever it does.
    pub(crate) fn kill(mut self) {
        self.qemu.kill();
    }

    /// Asks QEMU to end, which stops the devices in order.
    pub(crate) fn quit(self) {
        let complaints = self.quit_complaining();
        assert!(complaints.is_empty(), "QEMU complained: {complaints}");
    }

    /// The same for a QEMU that had reason to complain; what it said.
    pub(crate) fn quit_complaining(mut self) -> String {
        self.qmp.run("quit", json!({}));
        let status = self.qemu.ended(SOON).expect("QEMU does not quit");
        assert!(status.success(), "QEMU ended with {status}: {}", self.qemu.output());
        self.qemu.output()
    }

    /// What the guest's kernel printed that hints at a disk in trouble.
    pub(crate) fn assert_kernel_is_content(&mut self) {
        let trouble = self.sh(
            "dmesg | grep -E 'I/O error|blk_update_request|hung task|blocked for more|EXT4-fs error|XFS .*(corrupt|error)|Oops|BUG:' || true",
        );
        assert!(trouble.is_empty(), "the guest's kernel complains: {trouble}");
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            show_last_words("the guest's console", &self.console);
        }
    }
}
