//! What a back-end costs that has nothing to do: wake-ups, memory, and the time until it is there.

use std::collections::BTreeMap;
use std::fs;
use std::thread::sleep;
use std::time::Duration;

use serde::Serialize;
use vhost_user_blkmq::testkit::measure;

use super::backend::{Backend, Image};
use super::client::Watch;
use super::load::{Load, Pattern};
use super::scene::Contender;
use super::stats::Range;

/// Starts that are timed.
const STARTS: usize = 5;
/// How long it is let alone before and while it is watched.
const CALM: Duration = Duration::from_secs(2);
const WATCHED: Duration = Duration::from_secs(10);

/// What was seen of a contender.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Idle {
    pub(crate) name: String,
    /// From the start of the process to a socket.
    pub(crate) ready_ms: Range,
    /// Times that one of its threads was taken off a CPU in ten seconds, so as many times as one
    /// was put on it.
    pub(crate) wakeups: u64,
    /// Which threads.
    pub(crate) woken: Vec<(String, u64)>,
    /// Memory of its own and of its program files; not the guest's.
    pub(crate) resident_mib: f64,
}

/// Starts it some times; the last one serves a client with all queues for a moment, and is then
/// watched while the client stays connected.
pub(crate) fn measure(contender: &Contender, image: &Image) -> Result<Idle, String> {
    let Contender { name, kind, queues, client, backend: cpus } = contender;
    let named = |error: String| format!("{name}: {error}");
    let mut ready = Vec::new();
    let mut last = None;
    for _ in 0..STARTS {
        drop(last.take());
        let dir = tempfile::Builder::new().prefix("blkmq-bench-").tempdir();
        let dir = dir.map_err(|error| named(error.to_string()))?;
        let backend = Backend::start(kind, image, *queues, cpus, dir.path()).map_err(named)?;
        ready.push(backend.ready.as_secs_f64() * 1000.0);
        last = Some((backend, dir));
    }
    let (mut backend, _dir) = last.ok_or("it is started at least once")?;
    let load = Load { pattern: Pattern::RandRead, block: 4096, depth: 32 };
    let bytes = load.block * load.depth * queues;
    let mut connected = backend.connect(*queues, load.depth, bytes, false).map_err(named)?;
    let pid = backend.pid().ok_or_else(|| named("nothing runs".to_owned()))?;
    let moment = Duration::from_millis(200);
    let watch = Watch { warm_up: moment, measured: moment, pid: Some(pid), cpus: client.clone() };
    connected.run(&load, &watch).map_err(named)?;
    sleep(CALM);
    let before = switches(pid).map_err(named)?;
    sleep(WATCHED);
    let woken = woken(&before, &switches(pid).map_err(named)?);
    let status = fs::read_to_string(format!("/proc/{pid}/status"));
    let status = status.map_err(|error| named(error.to_string()))?;
    let resident = field(&status, "RssAnon:").zip(field(&status, "RssFile:"));
    let (anon, file) = resident.ok_or_else(|| named("the kernel tells no sizes".to_owned()))?;
    Ok(Idle {
        name: name.clone(),
        ready_ms: Range::of(&ready).ok_or("it is started at least once")?,
        wakeups: woken.iter().map(|(_, count)| count).sum(),
        woken,
        resident_mib: (anon + file) as f64 / 1024.0,
    })
}

/// A number of /proc/PID/status.
fn field(status: &str, name: &str) -> Option<u64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Threads by number: name, and context switches so far, of its own will or not.
type Switches = BTreeMap<String, (String, u64)>;

fn switches(pid: u32) -> Result<Switches, String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).map_err(|error| error.to_string())?;
    let mut all = Switches::new();
    for task in tasks {
        let task = task.map_err(|error| error.to_string())?;
        let path = task.path();
        // A thread may end meanwhile.
        let status = fs::read_to_string(path.join("status")).unwrap_or_default();
        let name = fs::read_to_string(path.join("comm")).unwrap_or_default().trim().to_owned();
        let count = ["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"]
            .iter()
            .filter_map(|field_name| field(&status, field_name))
            .sum();
        all.insert(task.file_name().to_string_lossy().into_owned(), (name, count));
    }
    Ok(all)
}

/// Who was switched since, and how often.
fn woken(before: &Switches, after: &Switches) -> Vec<(String, u64)> {
    let since = |(number, (name, count)): (&String, &(String, u64))| {
        let earlier = before.get(number).map_or(0, |(_, count)| *count);
        (name.clone(), count.saturating_sub(earlier))
    };
    after.iter().map(since).filter(|(_, count)| *count > 0).collect()
}

/// For people.
pub(crate) fn table(all: &[Idle]) -> String {
    let head = ["idle, 4 queues", "wake-ups in 10 s", "resident MiB", "ms to a socket", "who woke"];
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|idle| {
            vec![
                idle.name.clone(),
                idle.wakeups.to_string(),
                format!("{:.1}", idle.resident_mib),
                idle.ready_ms.text(1),
                idle.woken.iter().map(|(name, count)| format!(" {count} {name}")).collect(),
            ]
        })
        .collect();
    measure::table(1, &head, &rows)
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "a bench has the tests but not what runs them")]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let status = "Name:\tx\nRssAnon:\t  12 kB\nnonvoluntary_ctxt_switches:\t7\n";
        assert_eq!(field(status, "RssAnon:"), Some(12));
        assert_eq!(field(status, "voluntary_ctxt_switches:"), None);
        assert_eq!(field(status, "Name:"), None);
    }

    #[test]
    fn a_thread_that_sleeps_and_wakes_is_seen() {
        let me = std::process::id();
        let (to, from) = channel::<()>();
        let thread = std::thread::Builder::new().name("sleeper".to_owned());
        let thread = thread.spawn(move || {
            from.into_iter().for_each(|()| sleep(Duration::from_millis(1)));
        });
        let thread = thread.expect("a thread can be made");
        let before = switches(me).expect("we are there");
        (0..10).for_each(|_| to.send(()).expect("it listens"));
        sleep(Duration::from_millis(100));
        let seen = woken(&before, &switches(me).expect("we are there"));
        drop(to);
        thread.join().expect("it ends");
        let slept = seen.iter().find(|(name, _)| name == "sleeper");
        assert!(slept.is_some_and(|(_, count)| *count >= 10), "{seen:?}");
        let error = switches(1 << 30).expect_err("nobody has this number");
        assert!(error.contains("os error 2"), "{error}");
    }
}
