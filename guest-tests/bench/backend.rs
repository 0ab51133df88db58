//! The back-ends: how each is started on an image, and the images.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use vhost_user_blkmq::sys::affinity::pin_current_thread;

use super::client::{Client, Target, fill};
use crate::common::daemon::is_socket;
use crate::common::foreign;

/// Within this time a back-end takes a client.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often one looks whether it does.
const GLANCE: Duration = Duration::from_micros(200);

/// Bytes of a log that a report of a failure has.
const LAST_WORDS: usize = 2000;

/// What the requests go to in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nothing: reads answer at once, writes are dropped.
    Null,
    /// A file in memory.
    Tmpfs,
    /// A file in this directory.
    Dir(PathBuf),
    /// A block device. What is on it is lost.
    Device(PathBuf),
}

impl Place {
    /// As given on the command line.
    pub(crate) fn parse(text: &str) -> Result<Place, String> {
        match text.split_once(':') {
            None if text == "null" => Ok(Place::Null),
            None if text == "tmpfs" => Ok(Place::Tmpfs),
            Some(("file", path)) if !path.is_empty() => Ok(Place::Dir(PathBuf::from(path))),
            Some(("block", path)) if !path.is_empty() => Ok(Place::Device(PathBuf::from(path))),
            _ => Err(format!("{text} is no image: give null, tmpfs, file:DIR or block:DEVICE")),
        }
    }

    /// What it is called in a report.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Place::Null => "null",
            Place::Tmpfs => "RAM",
            Place::Dir(_) => "disk",
            Place::Device(_) => "device",
        }
    }
}

/// An image, filled with random data. A file that was made for it goes with it.
pub(crate) struct Image {
    pub(crate) place: Place,
    pub(crate) size: u64,
    path: PathBuf,
    _dir: Option<tempfile::TempDir>,
}

impl Image {
    pub(crate) fn make(place: &Place, size: u64) -> Result<Image, String> {
        let (dir, path, size) = match place {
            Place::Null => (None, PathBuf::new(), size),
            Place::Tmpfs => file_in(Path::new("/dev/shm"), size)?,
            Place::Dir(dir) => file_in(dir, size)?,
            Place::Device(path) => {
                let file = File::open(path).map_err(|e| format!("{}: {e}", path.display()))?;
                let all = std::io::Seek::seek(&mut &file, std::io::SeekFrom::End(0));
                let all = all.map_err(|e| format!("{}: {e}", path.display()))?;
                (None, path.clone(), all.min(size))
            }
        };
        if *place != Place::Null {
            fill(&path, size)?;
            // Written back now, not beside what is measured.
            let synced = File::open(&path).and_then(|file| file.sync_all());
            synced.map_err(|e| format!("{}: {e}", path.display()))?;
        }
        Ok(Image { place: place.clone(), size, path, _dir: dir })
    }

    /// How our own program is told of it.
    fn ours(&self) -> String {
        match self.place {
            Place::Null => format!("null:{},read-zeroes=off", self.size),
            _ => self.path.display().to_string(),
        }
    }

    /// How qemu-storage-daemon and QEMU are told of it: a node `f`.
    pub(crate) fn qemu(&self) -> String {
        let driver = match self.place {
            Place::Null => {
                return format!("driver=null-co,node-name=f,read-zeroes=off,size={}", self.size);
            }
            Place::Device(_) => "host_device",
            Place::Tmpfs | Place::Dir(_) => "file",
        };
        let path = self.path.display().to_string().replace(',', ",,");
        format!(
            "driver={driver},node-name=f,filename={path},locking=off,cache.direct=on,aio=io_uring"
        )
    }
}

type Made = (Option<tempfile::TempDir>, PathBuf, u64);

/// What directories of images are called, with the number of the process that made them.
const PREFIX: &str = "blkmq-bench-image-";

/// Removes the images of runs that were interrupted: memory and disk would fill up.
fn sweep(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn file_in(dir: &Path, size: u64) -> Result<Made, String> {
    let text = |error: std::io::Error| format!("{}: {error}", dir.display());
    sweep(dir).map_err(text)?;
    let prefix = format!("{PREFIX}{}-", std::process::id());
    let own = tempfile::Builder::new().prefix(&prefix).tempdir_in(dir).map_err(text)?;
    let path = own.path().join("image");
    File::create(&path).and_then(|file| file.set_len(size)).map_err(text)?;
    Ok((Some(own), path, size))
}

/// Who is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A build of ours, with options.
    Ours { program: PathBuf, options: Vec<String> },
    /// qemu-storage-daemon.
    Qsd,
    /// What a shell runs, with `{socket}`, `{image}` and `{queues}` replaced.
    Peer(String),
    /// No back-end: the client on the file.
    Raw,
}

impl Kind {
    /// What to run for `image` with so many queues, listening on `socket`. None: nothing.
    pub(crate) fn command(&self, image: &Image, socket: &Path, queues: usize) -> Option<Command> {
        let mut command = Command::new("setpriv");
        // It goes when the bench goes, however that ends.
        command.args(["--pdeathsig", "KILL"]);
        match self {
            Kind::Ours { program, options } => {
                command.arg(program);
                command.arg(format!("--socket-path={}", socket.display()));
                command.arg(format!("--blk-file={}", image.ours()));
                if image.place != Place::Null {
                    command.arg("--share-rw"); // the others have it open too
                }
                command.args(options);
            }
            Kind::Qsd => {
                command.args(["qemu-storage-daemon", "--object", "iothread,id=io"]);
                command.arg("--blockdev").arg(image.qemu()).arg("--export").arg(format!(
                    "type=vhost-user-blk,id=e,node-name=f,writable=on,num-queues={queues},\
                     iothread=io,addr.type=unix,addr.path={}",
                    socket.display()
                ));
            }
            Kind::Peer(text) => {
                let text = text
                    .replace("{socket}", &socket.display().to_string())
                    .replace("{image}", &image.ours())
                    .replace("{queues}", &queues.to_string());
                command.args(["sh", "-c", &format!("exec {text}")]);
            }
            Kind::Raw => return None,
        }
        Some(command)
    }
}

/// A contender that runs, or the bare file. Dropping it ends it.
pub(crate) struct Backend {
    /// How long it took until there was a socket.
    pub(crate) ready: Duration,
    child: Option<Child>,
    target: Target,
    log: PathBuf,
}

impl Backend {
    /// Starts it on these CPUs, with all threads that it will have.
    pub(crate) fn start(
        kind: &Kind,
        image: &Image,
        queues: usize,
        cpus: &[usize],
        dir: &Path,
    ) -> Result<Backend, String> {
        let (socket, log) = (dir.join("socket"), dir.join("log"));
        let Some(mut command) = kind.command(image, &socket, queues) else {
            let target = Target::File(image.path.clone());
            return Ok(Backend { ready: Duration::ZERO, child: None, target, log });
        };
        let output = File::create(&log).map_err(|e| format!("{}: {e}", log.display()))?;
        let error = output.try_clone().map_err(|e| e.to_string())?;
        command.stdin(Stdio::null()).stdout(output).stderr(error);
        let begin = Instant::now();
        let child = on(cpus, || command.spawn().map_err(|e| format!("{command:?}: {e}")))?;
        let (ready, target) = (Duration::ZERO, Target::Socket(socket));
        let mut backend = Backend { ready, child: Some(child), target, log };
        backend.wait_for_socket()?;
        backend.ready = begin.elapsed();
        Ok(backend)
    }

    fn wait_for_socket(&mut self) -> Result<(), String> {
        let end = Instant::now() + PATIENCE;
        while !matches!(&self.target, Target::Socket(path) if is_socket(path)) {
            self.lives()?;
            if Instant::now() > end {
                return Err(format!("no socket after {PATIENCE:?}: {}", self.said()));
            }
            sleep(GLANCE);
        }
        Ok(())
    }

    /// Connects; again and again when it binds first and listens later.
    pub(crate) fn connect(
        &mut self,
        queues: usize,
        depth: usize,
        arena: usize,
        poll: bool,
    ) -> Result<Client, String> {
        let end = Instant::now() + PATIENCE;
        loop {
            match Client::open(&self.target, queues, depth, arena, poll) {
                Ok(client) => return Ok(client),
                Err(error) if error.contains("refused") && Instant::now() < end => self.lives()?,
                Err(error) => return Err(format!("{error}: {}", self.said())),
            }
            sleep(Duration::from_millis(5));
        }
    }

    fn lives(&mut self) -> Result<(), String> {
        let Some(child) = &mut self.child else { return Ok(()) };
        match child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(format!("it ended with {status}: {}", self.said())),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The last that it printed.
    pub(crate) fn said(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text[text.len().saturating_sub(LAST_WORDS)..]);
        text.trim().to_owned()
    }

    /// Its number; none without a process.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Takes it off the CPU while others have their turn: some never sleep by themselves.
    pub(crate) fn pause(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// Lets it run.
    pub(crate) fn resume(&self) {
        self.signal(libc::SIGCONT);
    }

    fn signal(&self, signal: i32) {
        if let Some(pid) = self.pid() {
            foreign::kill(pid, signal);
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Does something on these CPUs. Processes and threads that it starts stay there.
pub(crate) fn on<T>(cpus: &[usize], what: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let text = |error: std::io::Error| format!("CPUs {cpus:?}: {error}");
    let before = vhost_user_blkmq::sys::affinity::allowed_cpus().map_err(text)?;
    pin_current_thread(cpus).map_err(text)?;
    let done = what();
    pin_current_thread(&before).map_err(text)?;
    done
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "a bench has the tests but not what runs them")]
mod tests {
    use super::*;

    fn words(kind: &Kind, image: &Image) -> Vec<String> {
        let command = kind.command(image, Path::new("/s"), 2).expect("a process");
        command.get_args().skip(2).map(|a| a.to_string_lossy().into_owned()).collect()
    }

    fn image(place: Place) -> Image {
        Image { place, size: 1 << 20, path: PathBuf::from("/a,b"), _dir: None }
    }

    #[test]
    fn places_are_named_on_the_command_line() {
        for (text, place, name) in [
            ("null", Place::Null, "null"),
            ("tmpfs", Place::Tmpfs, "RAM"),
            ("file:/x:y", Place::Dir(PathBuf::from("/x:y")), "disk"),
            ("block:/dev/x", Place::Device(PathBuf::from("/dev/x")), "device"),
        ] {
            assert_eq!(Place::parse(text), Ok(place.clone()));
            assert_eq!(place.name(), name);
        }
        for bad in ["", "ram", "file", "file:", "block:", "null:1"] {
            assert!(Place::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn everyone_is_told_of_the_image_in_his_own_words() {
        let ours = Kind::Ours { program: PathBuf::from("/p"), options: vec!["--x".to_owned()] };
        let (null, ram) = (image(Place::Null), image(Place::Tmpfs));
        let shown = words(&ours, &null);
        assert_eq!(
            shown,
            ["/p", "--socket-path=/s", "--blk-file=null:1048576,read-zeroes=off", "--x"]
        );
        let shown = words(&ours, &ram);
        assert_eq!(shown[1..], ["--socket-path=/s", "--blk-file=/a,b", "--share-rw", "--x"]);
        let shown = words(&Kind::Qsd, &null).join(" ");
        assert!(shown.contains("driver=null-co,node-name=f,read-zeroes=off,size=1048576"));
        assert!(shown.contains("num-queues=2,iothread=io") && shown.ends_with("addr.path=/s"));
        let shown = words(&Kind::Qsd, &ram).join(" ");
        assert!(shown.contains("driver=file,node-name=f,filename=/a,,b,locking=off"), "{shown}");
        let device = words(&Kind::Qsd, &image(Place::Device(PathBuf::new()))).join(" ");
        assert!(device.contains("driver=host_device,"), "{device}");
        let peer = Kind::Peer("p {socket} {image} {queues}".to_owned());
        assert_eq!(words(&peer, &ram), ["sh", "-c", "exec p /s /a,b 2"]);
        assert!(Kind::Raw.command(&ram, Path::new("/s"), 1).is_none());
    }

    #[test]
    fn an_image_is_full_of_noise_and_goes_with_its_owner() {
        let dir = tempfile::tempdir().expect("a directory");
        let place = Place::Dir(dir.path().to_path_buf());
        // Left behind by a process whose number nobody can have; and what is none of ours.
        let left = dir.path().join(format!("{PREFIX}4194304-x"));
        let foreign = dir.path().join("blkmq-bench");
        for dir in [&left, &foreign] {
            fs::create_dir(dir).expect("a directory");
        }
        fs::write(left.join("image"), "x").expect("a file");
        let image = Image::make(&place, (1 << 20) + 512).expect("there is room");
        let bytes = fs::read(&image.path).expect("it is there");
        assert_eq!(bytes.len(), (1 << 20) + 512);
        let zeroes = bytes.chunks_exact(8).filter(|word| *word == [0; 8]).count();
        assert_eq!(zeroes, 0);
        assert_ne!(bytes[..512], bytes[1 << 20..]);
        let others = Image::make(&place, 512).expect("there is room");
        assert!(image.path.exists() && !left.exists());
        drop((image, others));
        let rest = fs::read_dir(dir.path()).expect("it is there");
        let rest: Vec<PathBuf> = rest.map(|entry| entry.expect("an entry").path()).collect();
        assert_eq!(rest, [foreign]);
        assert!(Image::make(&Place::Dir(dir.path().join("none")), 512).is_err());
    }

    #[test]
    fn who_does_not_start_says_why() {
        let dir = tempfile::tempdir().expect("a directory");
        let kind = Kind::Peer("sh -c 'echo no luck; exit 3'".to_owned());
        let cpus = vhost_user_blkmq::sys::affinity::allowed_cpus().expect("the kernel tells");
        let started = Backend::start(&kind, &image(Place::Null), 1, &cpus, dir.path());
        let Err(error) = started else { panic!("it cannot start") };
        assert!(error.contains("exit status: 3") && error.contains("no luck"), "{error}");
    }
}
