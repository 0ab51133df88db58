//! The same from inside a guest: fio on a disk of each back-end, and on one that QEMU serves
//! itself (virtio-blk with a thread of its own), all of one guest, in interleaved rounds.
//!
//! Guest, QEMU and back-ends share all CPUs as they like: where there is no KVM, the guest's own
//! instructions are most of the work, and differences between back-ends look smaller than they are.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use vhost_user_blkmq::sys::affinity::allowed_cpus;
use vhost_user_blkmq::testkit::measure::process_cpu_time;

use super::args::{Args, Seats};
use super::backend::{Backend, Image, Kind};
use super::load::{Load, Pattern};
use super::noise::Ran;
use super::report;
use super::scene::{Cell, Pace, Sample, Series};
use crate::guest::Session;
use crate::guest::vm::{Guest, Vm};

/// What QEMU serves itself is called so (`report` compares everybody to it), and says so to the guest as its serial number.
const INSIDE: &str = "in QEMU";
const SERIAL: &str = "inside";
/// More virtual CPUs are of no use: there are four jobs.
const MOST_CPUS: usize = 4;

struct Disk {
    name: String,
    /// None: QEMU itself.
    backend: Option<Backend>,
    _dir: Option<tempfile::TempDir>,
}

impl Disk {
    fn pid(&self) -> Option<u32> {
        self.backend.as_ref().and_then(Backend::pid)
    }
}

/// One guest with all disks.
struct Inside {
    disks: Vec<Disk>,
    // Before the session, whose directories it uses.
    vm: Vm,
    cpus: Vec<usize>,
    place: &'static str,
}

/// Measures every load in a guest for each image that is asked for.
pub(crate) fn run(args: &Args, say: fn(&str)) -> Result<Vec<Cell>, String> {
    let session = Session::start("ci/bench");
    let mut cells = Vec::new();
    for place in &args.image {
        let image = Image::make(place, args.size as u64)?;
        let mut inside = Inside::start(args, &session, &image)?;
        for jobs in [1, 4] {
            for depth in [1, 32] {
                for pattern in [Pattern::RandRead, Pattern::RandWrite] {
                    let load = Load { pattern, block: 4096, depth };
                    let cell = inside.measure(&load, jobs, &args.pace())?;
                    say(&report::cell(&cell));
                    cells.push(cell);
                }
            }
        }
    }
    Ok(cells)
}

impl Inside {
    fn start(args: &Args, session: &Session, image: &Image) -> Result<Inside, String> {
        let cpus = allowed_cpus().map_err(|error| error.to_string())?;
        let virtual_cpus = cpus.len().min(MOST_CPUS);
        let seats = Seats { client: cpus.clone(), backend: cpus.clone() };
        let mut disks = Vec::new();
        let number = u32::try_from(virtual_cpus).expect("few");
        let mut guest = Guest::new(session, "bench", number);
        for contender in args.contenders(virtual_cpus, &seats)? {
            if contender.kind == Kind::Raw {
                continue;
            }
            let named = |error: String| format!("{}: {error}", contender.name);
            let dir = tempfile::Builder::new().prefix("blkmq-bench-").tempdir();
            let dir = dir.map_err(|error| named(error.to_string()))?;
            let backend = Backend::start(&contender.kind, image, virtual_cpus, &cpus, dir.path());
            let backend = backend.map_err(named)?;
            let socket: PathBuf = dir.path().join("socket");
            guest = guest.disk_at(&socket, &format!("num-queues={virtual_cpus}"));
            disks.push(Disk { name: contender.name, backend: Some(backend), _dir: Some(dir) });
        }
        disks.push(Disk { name: INSIDE.to_owned(), backend: None, _dir: None });
        let device = format!(
            "virtio-blk-pci,drive=f,iothread=io,num-queues={virtual_cpus},share-rw=on,\
             serial={SERIAL},disable-legacy=on"
        );
        let blockdev = image.qemu();
        let words = ["-object", "iothread,id=io", "-blockdev", &blockdev, "-device", &device];
        let mut vm = guest.with(&words).start();
        // The disks are in the order in which QEMU was told of them.
        let last = format!("cat /sys/block/{}/serial", device_name(disks.len() - 1));
        let found = vm.sh(&last);
        if found != SERIAL {
            return Err(format!("the last disk of the guest is {found}, not {SERIAL}"));
        }
        disks.iter().filter_map(|disk| disk.backend.as_ref()).for_each(Backend::pause);
        Ok(Inside { disks, vm, cpus, place: image.place.name() })
    }

    fn measure(&mut self, load: &Load, jobs: usize, pace: &Pace) -> Result<Cell, String> {
        let before = (Ran::now(&self.cpus), self.own_time());
        let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); self.disks.len()];
        for round in 0..pace.rounds {
            for i in 0..self.disks.len() {
                let i = if round % 2 == 0 { i } else { self.disks.len() - 1 - i };
                samples[i].push(self.turn(i, load, jobs, pace.seconds)?);
            }
        }
        let disturbance = Ran::now(&self.cpus).since(&before.0, self.own_time() - before.1);
        let series = self.disks.iter().zip(samples).map(|(disk, rounds)| Series {
            name: disk.name.clone(),
            queues: 1,
            raw: false,
            rounds,
        });
        let image =
            format!("in a guest, {}, {jobs} job{}", self.place, if jobs > 1 { "s" } else { "" });
        Ok(Cell { image, load: *load, one_cpu: false, series: series.collect(), disturbance })
    }

    fn turn(&mut self, i: usize, load: &Load, jobs: usize, seconds: f64) -> Result<Sample, String> {
        let disk = &self.disks[i];
        let time = || disk.pid().and_then(|pid| process_cpu_time(pid).ok());
        disk.backend.iter().for_each(Backend::resume);
        let begin = time();
        let output = self.vm.work(&script(&device_name(i), load, jobs, seconds));
        let used = time().zip(begin).map(|(end, begin)| end.since(begin));
        disk.backend.iter().for_each(Backend::pause);
        sample(&output, used).ok_or_else(|| format!("{}: fio said: {output}", disk.name))
    }

    /// CPU time of everyone here and of QEMU, in seconds.
    fn own_time(&self) -> f64 {
        let pids = self.disks.iter().filter_map(Disk::pid);
        let pids = pids.chain([std::process::id(), self.vm.pid()]);
        pids.filter_map(|pid| process_cpu_time(pid).ok()).map(|n| n.0 as f64 / 1e9).sum()
    }
}

/// vda, vdb and so on.
fn device_name(index: usize) -> String {
    let letter = char::from(b'a' + u8::try_from(index).expect("few disks"));
    format!("vd{letter}")
}

fn script(device: &str, load: &Load, jobs: usize, seconds: f64) -> String {
    let pattern = if load.pattern == Pattern::RandRead { "randread" } else { "randwrite" };
    let millis = Duration::from_secs_f64(seconds).as_millis();
    format!(
        "fio --name=bench --filename=/dev/{device} --direct=1 --ioengine=libaio --thread \
         --rw={pattern} --bs={} --iodepth={} --numjobs={jobs} --runtime={millis}ms --time_based \
         --norandommap --group_reporting --output-format=json --output=/tmp/bench.json >/dev/null\n\
         cat /tmp/bench.json",
        load.block, load.depth
    )
}

/// What fio reported, and the CPU time of the back-end for all that it did.
fn sample(report: &str, used: Option<u64>) -> Option<Sample> {
    let whole: Value = serde_json::from_str(&report[report.find('{')?..]).ok()?;
    let job = whole.pointer("/jobs/0").filter(|job| job["error"] == 0)?;
    let way = ["read", "write"].into_iter().find(|way| job[*way]["total_ios"] != 0)?;
    let ios = job[way]["total_ios"].as_f64()?;
    let percentile = |which: &str| {
        let nanos = job[way]["clat_ns"]["percentile"][which].as_f64();
        nanos.map(|nanos| nanos / 1000.0)
    };
    Some(Sample {
        iops: job[way]["iops"].as_f64()?,
        p50_us: percentile("50.000000")?,
        p99_us: percentile("99.000000")?,
        p999_us: percentile("99.900000")?,
        backend_us: used.map(|nanos| nanos as f64 / 1000.0 / ios),
        client_us: f64::NAN,
    })
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "a bench has the tests but not what runs them")]
mod tests {
    use super::*;

    #[test]
    fn fio_is_read_as_it_reports() {
        let report = r#"note: something
            {"jobs": [{"error": 0, "read": {"total_ios": 0, "iops": 0.0}, "write": {
            "total_ios": 2000, "iops": 1000.5, "clat_ns": {"percentile": {
            "50.000000": 1500, "99.000000": 20000, "99.900000": 30000}}}}]}"#;
        let found = sample(report, Some(10_000_000)).expect("a report");
        assert_eq!((found.iops, found.p50_us), (1000.5, 1.5));
        assert_eq!((found.p99_us, found.p999_us), (20.0, 30.0));
        assert_eq!(found.backend_us, Some(5.0));
        assert!(found.client_us.is_nan());
        assert_eq!(sample(report, None).expect("a report").backend_us, None);
        assert_eq!(sample(&report.replace("\"error\": 0", "\"error\": 5"), None), None);
        assert_eq!(sample(&report.replace("2000", "0"), None), None);
        assert_eq!(sample("fio: no such device", None), None);
    }

    #[test]
    fn fio_is_asked_for_the_load() {
        let load = Load { pattern: Pattern::RandWrite, block: 4096, depth: 32 };
        let text = script(&device_name(2), &load, 4, 1.5);
        let wanted =
            ["/dev/vdc ", "--rw=randwrite", "--bs=4096", "--iodepth=32", "--numjobs=4", "1500ms"];
        for part in wanted {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
