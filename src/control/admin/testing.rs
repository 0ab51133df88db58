//! A daemon that remembers what it was asked to do, for the tests of the admin socket.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::shape::{
    ClassName, Counters, DiskStats, DiskSummary, Gauges, Histogram, Inspection, Iostat, Limit,
    LimitSet, Limits, Measure, OpName, PoolSummary, QueueStats, RequestInProgress, Resized,
    SchedulerReport, Stage,
};
use super::{AdminServer, Steer, SteerError};
use crate::blkmq::limits::LimitsConfig;

/// Far longer than anything here takes: only a defect waits so long.
pub(super) const LONG: Duration = Duration::from_secs(20);

/// A daemon with the disks `vda` and `vdb` in the pool `ssd`. Besides, `stuck` is a disk whose
/// inspection waits at a gate, `deaf` one whose queue thread never answers, and `huge` one whose
/// statistics have several MiB.
#[derive(Default)]
pub(super) struct FakeDaemon {
    changes: Mutex<Vec<String>>,
    tunables: Mutex<BTreeMap<String, String>>,
    /// How many wait at the gate, and whether it is open.
    gate: Mutex<(u32, bool)>,
    moved: Condvar,
}

impl FakeDaemon {
    pub(super) fn new() -> Arc<FakeDaemon> {
        let fake = FakeDaemon::default();
        let tunables = [("fifo_batch", "16"), ("writes_starved", "2")];
        *fake.tunables.lock().expect("whole") =
            tunables.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Arc::new(fake)
    }

    /// What was asked for since the last look.
    pub(super) fn changes(&self) -> Vec<String> {
        std::mem::take(&mut *self.changes.lock().expect("whole"))
    }

    /// Waits until `n` calls wait at the gate.
    pub(super) fn wait_for(&self, n: u32) {
        let gate = self.gate.lock().expect("whole");
        let (_gate, late) =
            self.moved.wait_timeout_while(gate, LONG, |gate| gate.0 < n).expect("whole");
        assert!(!late.timed_out(), "nobody came to the gate");
    }

    pub(super) fn open_gate(&self) {
        self.gate.lock().expect("whole").1 = true;
        self.moved.notify_all();
    }

    fn pass_gate(&self) {
        let mut gate = self.gate.lock().expect("whole");
        gate.0 += 1;
        self.moved.notify_all();
        let (mut gate, late) =
            self.moved.wait_timeout_while(gate, LONG, |gate| !gate.1).expect("whole");
        gate.0 -= 1;
        assert!(!late.timed_out(), "the gate stayed shut");
    }

    fn changed(&self, what: String) -> Result<(), SteerError> {
        self.changes.lock().expect("whole").push(what);
        Ok(())
    }
}

fn known(disk: &str) -> Result<(), SteerError> {
    match disk {
        "vda" | "vdb" | "stuck" | "huge" => Ok(()),
        "deaf" => Err(SteerError::Unanswered("queue thread 0".to_owned())),
        other => Err(SteerError::NoSuchDisk(other.to_owned())),
    }
}

fn known_pool(pool: &str) -> Result<(), SteerError> {
    if pool == "ssd" { Ok(()) } else { Err(SteerError::NoSuchPool(pool.to_owned())) }
}

fn histogram(
    of: Measure,
    op: Option<OpName>,
    values: [u64; 7],
    buckets: &[(u64, u64)],
) -> Histogram {
    let [count, mean, p50, p90, p99, p999, max] = values;
    let buckets = if buckets.is_empty() { None } else { Some(buckets.to_vec()) };
    Histogram { of, op, count, mean, p50, p90, p99, p999, max, buckets }
}

fn counters(buckets: bool) -> Counters {
    let shown = |of: &'static [(u64, u64)]| if buckets { of } else { &[] };
    let latencies = shown(&[(90111, 100), (122_879, 20), (245_759, 8)]);
    let values = [128, 93750, 90111, 122_879, 245_759, 245_759, 240_000];
    Counters {
        iostat: Iostat {
            read_ios: 100,
            read_merges: 28,
            read_sectors: 1024,
            read_ticks: 12,
            in_flight: 3,
            io_ticks: 9,
            time_in_queue: 12,
            ..Iostat::default()
        },
        gauges: Gauges { free: 253, staged: 1, in_flight: 2, ..Gauges::default() },
        requeues: 1,
        rejected: 2,
        histograms: vec![
            histogram(Measure::QueueToComplete, Some(OpName::Read), values, latencies),
            histogram(Measure::BatchSize, None, [16, 8, 8, 8, 8, 8, 8], shown(&[(8, 16)])),
        ],
        ..Counters::default()
    }
}

impl Steer for FakeDaemon {
    fn disks(&self) -> Vec<DiskSummary> {
        let vda = DiskSummary {
            name: "vda".to_owned(),
            image: "/srv/a.img".to_owned(),
            pool: "ssd".to_owned(),
            sectors: 2_097_152,
            block_size: 512,
            read_only: false,
            queues: 2,
            connected: true,
            weight: 100,
            nr_requests: None,
            limits: Limits::default(),
        };
        let total = Limit { rate: 1000, ..Limit::default() };
        let vdb = DiskSummary {
            name: "vdb".to_owned(),
            image: "/srv/b.img".to_owned(),
            sectors: 4_194_304,
            block_size: 4096,
            read_only: true,
            queues: 1,
            connected: false,
            weight: 200,
            nr_requests: Some(64),
            limits: Limits { iops: LimitSet { total, ..LimitSet::default() }, ..Limits::default() },
            ..vda.clone()
        };
        vec![vda, vdb]
    }

    fn pools(&self) -> Vec<PoolSummary> {
        vec![PoolSummary {
            name: "ssd".to_owned(),
            disks: vec!["vda".to_owned(), "vdb".to_owned()],
            threads: 2,
            scheduler: "mq-deadline".to_owned(),
            hw_depth: 64,
            hw_depth_auto: true,
            nomerges: 0,
            poll_max_us: 100,
        }]
    }

    fn disk_stats(&self, disk: &str, queues: bool, buckets: bool) -> Result<DiskStats, SteerError> {
        known(disk)?;
        let count = match (queues, disk) {
            (false, _) => 0,
            (true, "huge") => 8000,
            (true, _) => 2,
        };
        let queue = |queue| QueueStats { queue, thread: queue % 2, counters: counters(buckets) };
        let queues = (0..count).map(queue).collect();
        Ok(DiskStats { disk: disk.to_owned(), total: counters(buckets), queues })
    }

    fn inspect(&self, disk: &str, most: u32) -> Result<Inspection, SteerError> {
        known(disk)?;
        if disk == "stuck" {
            self.pass_gate();
        }
        let write = RequestInProgress {
            queue: 1,
            tag: 17,
            op: OpName::Write,
            sector: Some(2048),
            sectors: Some(8),
            class: ClassName::BestEffort,
            stage: Stage::InFlight,
            age_ns: 30_000_000_000,
            merged_into: None,
        };
        let flush = RequestInProgress {
            queue: 0,
            tag: 4,
            op: OpName::Flush,
            sector: None,
            sectors: None,
            stage: Stage::FlushWait,
            age_ns: 29_000_000,
            ..write.clone()
        };
        let merged = RequestInProgress {
            tag: 18,
            sector: Some(2056),
            stage: Stage::Merged,
            age_ns: 28_000_000,
            merged_into: Some(17),
            ..write.clone()
        };
        let most = usize::try_from(most).expect("small");
        let requests = [write, flush, merged].into_iter().take(most).collect();
        Ok(Inspection { disk: disk.to_owned(), total: 3, requests })
    }

    fn set_limits(&self, disk: &str, limits: LimitsConfig) -> Result<(), SteerError> {
        known(disk)?;
        self.changed(format!("limits {disk} {limits:?}"))
    }

    fn set_weight(&self, disk: &str, weight: u16) -> Result<(), SteerError> {
        known(disk)?;
        self.changed(format!("weight {disk} {weight}"))
    }

    fn set_nr_requests(&self, disk: &str, requests: Option<u16>) -> Result<(), SteerError> {
        known(disk)?;
        self.changed(format!("nr_requests {disk} {requests:?}"))
    }

    fn resize(&self, disk: &str, size: Option<u64>, shrink: bool) -> Result<Resized, SteerError> {
        known(disk)?;
        let before = 2_097_152;
        let sectors = size.map_or(before, |bytes| bytes / 512);
        if sectors < before && !shrink {
            return Err(SteerError::Refused {
                cause: format!(
                    "{} bytes are less than the disk has, and what is cut off is lost",
                    sectors * 512
                ),
                remedy: "give shrink as well, if that is meant".to_owned(),
            });
        }
        self.changed(format!("resize {disk} {size:?} {shrink}"))?;
        Ok(Resized { disk: disk.to_owned(), sectors, before, announced: true })
    }

    fn scheduler(&self, pool: &str) -> Result<SchedulerReport, SteerError> {
        known_pool(pool)?;
        Ok(SchedulerReport {
            pool: pool.to_owned(),
            scheduler: "mq-deadline".to_owned(),
            available: ["none", "mq-deadline", "kyber", "bfq"].map(str::to_owned).into(),
            tunables: self.tunables.lock().expect("whole").clone(),
        })
    }

    fn set_scheduler(
        &self,
        pool: &str,
        name: &str,
        tunables: &[(String, String)],
    ) -> Result<(), SteerError> {
        known_pool(pool)?;
        if name == "cfq" {
            let why = "there is no scheduler `cfq`: give none, mq-deadline, kyber or bfq";
            return Err(SteerError::Invalid(why.to_owned()));
        }
        self.changed(format!("scheduler {pool} {name} {tunables:?}"))
    }

    fn tunable(&self, pool: &str, name: &str, value: Option<&str>) -> Result<String, SteerError> {
        known_pool(pool)?;
        let mut tunables = self.tunables.lock().expect("whole");
        let Some(known) = tunables.get_mut(name) else {
            return Err(SteerError::Invalid(format!("mq-deadline has no tunable `{name}`")));
        };
        if let Some(value) = value {
            value.clone_into(known);
        }
        Ok(known.clone())
    }

    fn set_hw_depth(&self, pool: &str, depth: Option<u32>) -> Result<(), SteerError> {
        known_pool(pool)?;
        if depth.is_some_and(|depth| depth > 1024) {
            return Err(SteerError::Refused {
                cause: "the image takes 1024 requests at a time".to_owned(),
                remedy: "give 1024 or less".to_owned(),
            });
        }
        self.changed(format!("hw_depth {pool} {depth:?}"))
    }

    fn set_nomerges(&self, pool: &str, level: u8) -> Result<(), SteerError> {
        known_pool(pool)?;
        self.changed(format!("nomerges {pool} {level}"))
    }

    fn set_poll_max_us(&self, pool: &str, most: u32) -> Result<(), SteerError> {
        known_pool(pool)?;
        self.changed(format!("poll_max_us {pool} {most}"))
    }
}

/// A server on a socket file, over a [`FakeDaemon`].
pub(super) struct Served {
    pub(super) fake: Arc<FakeDaemon>,
    pub(super) server: AdminServer,
    dir: tempfile::TempDir,
}

impl Served {
    pub(super) fn new() -> Served {
        Served::start(AdminServer::start)
    }

    pub(super) fn start(
        start: impl FnOnce(UnixListener, Arc<dyn Steer>) -> std::io::Result<AdminServer>,
    ) -> Served {
        let dir = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(dir.path().join("admin")).expect("a free name");
        let fake = FakeDaemon::new();
        let server = start(listener, Arc::clone(&fake) as Arc<dyn Steer>).expect("it starts");
        Served { fake, server, dir }
    }

    pub(super) fn client(&self) -> Client {
        let stream = UnixStream::connect(self.dir.path().join("admin")).expect("it listens");
        stream.set_read_timeout(Some(LONG)).expect("open");
        stream.set_write_timeout(Some(LONG)).expect("open");
        Client { lines: BufReader::new(stream) }
    }

    /// Stops the server; the calls that it got and the time it took.
    pub(super) fn stop(self) -> (Vec<String>, Duration) {
        let begin = std::time::Instant::now();
        self.server.stop();
        (self.fake.changes(), begin.elapsed())
    }
}

/// An operator's program.
pub(super) struct Client {
    lines: BufReader<UnixStream>,
}

impl Client {
    pub(super) fn stream(&self) -> &UnixStream {
        self.lines.get_ref()
    }

    pub(super) fn send(&self, bytes: &[u8]) {
        self.stream().write_all(bytes).expect("it is open");
    }

    /// The next line; `None` at the end of the connection.
    pub(super) fn receive(&mut self) -> Option<String> {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("it ends properly");
        if line.is_empty() {
            return None;
        }
        assert_eq!(line.pop(), Some('\n'), "a whole line");
        Some(line)
    }

    pub(super) fn ask(&mut self, line: &str) -> String {
        self.send(format!("{line}\n").as_bytes());
        self.receive().expect("an answer")
    }

    /// What can be read until the connection ends, which it does.
    pub(super) fn rest(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.receive()).collect()
    }
}
