//! The bar: what has to be reached, line by line, against the peers of this machine.

use serde::Serialize;
use serde_json::json;

use super::args::{Args, Seats};
use super::backend::{Image, Kind, Place};
use super::idle::{self, Idle};
use super::load::{Load, Pattern};
use super::report;
use super::scene::{Cell, Contender, Figure, Scene, Series, cpu};
use super::stats::Range;
use crate::common::admin::Admin;

/// What a figure of ours is held against.
#[derive(Clone, Copy, Debug)]
enum Against {
    /// At least so many times this contender's.
    AtLeast(f64, &'static str),
    /// At most so many times this contender's.
    AtMost(f64, &'static str),
    /// At most so much more than this contender's.
    Plus(f64, &'static str),
}

use Against::{AtLeast, AtMost, Plus};

/// A figure by its name.
#[derive(Clone, Copy)]
struct Want(&'static str, Figure, Against);

const fn iops(against: Against) -> Want {
    Want("k IOPS", |s| s.iops / 1000.0, against)
}

const fn cpu_time(against: Against) -> Want {
    Want("CPU us/IO", cpu, against)
}

const fn p50(against: Against) -> Want {
    Want("p50 us", |s| s.p50_us, against)
}

/// Which image a line is run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum On {
    Null,
    Ram,
    Disk,
}

/// One line: one image, one connection to each, some loads, and what is wanted of each of them.
struct Line {
    id: &'static str,
    on: On,
    loads: &'static [(Pattern, usize, usize)],
    queues: usize,
    one_cpu: bool,
    wants: &'static [Want],
}

const K4: usize = 4096;
const K128: usize = 128 << 10;

/// The lines that are measured by a load.
const LINES: &[Line] = &[
    Line {
        id: "P1",
        on: On::Null,
        loads: &[(Pattern::RandRead, K4, 32), (Pattern::RandWrite, K4, 32)],
        queues: 1,
        one_cpu: false,
        wants: &[iops(AtLeast(2.5, "qsd")), cpu_time(AtMost(0.4, "qsd"))],
    },
    Line {
        id: "P2",
        on: On::Ram,
        loads: &[(Pattern::RandRead, K4, 32)],
        queues: 1,
        one_cpu: false,
        wants: &[
            iops(AtLeast(1.5, "qsd")),
            iops(AtLeast(1.2, "raw")),
            cpu_time(AtMost(0.7, "qsd")),
        ],
    },
    Line {
        id: "P3",
        on: On::Ram,
        loads: &[(Pattern::RandWrite, K4, 32)],
        queues: 1,
        one_cpu: false,
        wants: &[iops(AtLeast(1.4, "qsd")), iops(AtLeast(1.1, "raw"))],
    },
    Line {
        id: "P4",
        on: On::Ram,
        loads: &[(Pattern::SeqRead, K4, 32), (Pattern::SeqWrite, K4, 32)],
        queues: 1,
        one_cpu: false,
        wants: &[iops(AtLeast(2.5, "qsd")), iops(AtLeast(1.3, "raw"))],
    },
    Line {
        id: "P5",
        on: On::Ram,
        loads: &[(Pattern::RandRead, K128, 8), (Pattern::RandWrite, K128, 8)],
        queues: 1,
        one_cpu: false,
        wants: &[iops(AtLeast(1.4, "qsd")), iops(AtLeast(1.0, "raw"))],
    },
    Line {
        id: "P6",
        on: On::Ram,
        loads: &[(Pattern::RandRead, K4, 1)],
        queues: 1,
        one_cpu: false,
        wants: &[p50(AtMost(0.5, "qsd")), p50(Plus(4.0, "raw"))],
    },
    Line {
        id: "P7",
        on: On::Disk,
        loads: &[(Pattern::RandRead, K4, 32), (Pattern::RandWrite, K4, 32)],
        queues: 1,
        one_cpu: false,
        wants: &[
            iops(AtLeast(1.1, "qsd")),
            iops(AtLeast(0.95, "raw")),
            cpu_time(AtMost(0.7, "qsd")),
        ],
    },
    Line {
        id: "P8",
        on: On::Disk,
        loads: &[(Pattern::WriteFlush, K4, 16)],
        queues: 2,
        one_cpu: false,
        wants: &[iops(AtLeast(1.5, "qsd"))],
    },
    Line {
        id: "P13",
        on: On::Null,
        loads: &[(Pattern::RandRead, K4, 32)],
        queues: 1,
        one_cpu: true,
        wants: &[iops(AtLeast(1.0, "qsd"))],
    },
    Line {
        id: "P13",
        on: On::Ram,
        loads: &[(Pattern::RandRead, K4, 32)],
        queues: 1,
        one_cpu: true,
        wants: &[iops(AtLeast(1.0, "qsd"))],
    },
];

/// Syncs for each flush of P8 that are allowed.
const SYNCS: f64 = 0.25;
/// P9: two queues on two threads against one on one.
const TWO_THREADS: f64 = 1.8;
/// P12: wake-ups, MiB, milliseconds.
const IDLE: (f64, f64, f64) = (0.0, 12.0, 20.0);

/// What became of one thing that is wanted.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    line: String,
    what: String,
    figure: String,
    ours: Option<Range>,
    /// Ours compared to the other's.
    compared: Option<Range>,
    to: String,
    bound: String,
    verdict: String,
}

/// `met` or `SHORT`, by the median; with a question mark when the bound lies between the rounds.
fn verdict(value: &Range, least: bool, bound: f64) -> String {
    let met = if least { value.median >= bound } else { value.median <= bound };
    let clear = value.min >= bound || value.max <= bound;
    format!("{}{}", if met { "met" } else { "SHORT" }, if clear { "" } else { "?" })
}

impl Want {
    fn row(&self, line: &str, cell: &Cell, ours: &Series) -> Row {
        let Want(figure, of, against) = *self;
        let (least, bound, name, plus) = match against {
            AtLeast(bound, name) => (true, bound, name, false),
            AtMost(bound, name) => (false, bound, name, false),
            Plus(bound, name) => (false, bound, name, true),
        };
        let what = if plus { |a, b| a - b } else { |a, b| a / b };
        let compared = cell.series(name).map(|other| ours.compared(other, of, what));
        let mut outcome =
            compared.map_or_else(|| "not run".to_owned(), |c| verdict(&c, least, bound));
        if !cell.complaints().is_empty() {
            outcome.push_str(" (noisy)");
        }
        let sign = if least { ">=" } else { "<=" };
        let bound = if plus { format!("{sign} +{bound}") } else { format!("{sign} x {bound}") };
        Row {
            line: line.to_owned(),
            what: cell.title(),
            figure: figure.to_owned(),
            ours: Some(ours.range(of)),
            compared,
            to: name.to_owned(),
            bound,
            verdict: outcome,
        }
    }
}

impl Row {
    /// Of a figure that is held against a number.
    fn absolute(line: &str, what: &str, figure: &str, ours: Range, bound: f64) -> Row {
        Row {
            line: line.to_owned(),
            what: what.to_owned(),
            figure: figure.to_owned(),
            ours: Some(ours),
            compared: None,
            to: String::new(),
            bound: format!("<= {bound}"),
            verdict: verdict(&ours, false, bound),
        }
    }

    /// Of what is not measured, and why not.
    fn absent(line: &str, what: &str, why: &str) -> Row {
        Row {
            line: line.to_owned(),
            what: what.to_owned(),
            figure: String::new(),
            ours: None,
            compared: None,
            to: String::new(),
            bound: String::new(),
            verdict: why.to_owned(),
        }
    }
}

/// The whole table.
pub(crate) fn table(rows: &[Row]) -> String {
    let head = ["line", "what", "figure", "ours", "compared", "to", "bound", "verdict"];
    let or_none = |range: &Option<Range>| range.map_or_else(|| "-".to_owned(), |r| r.text(2));
    let cells = rows.iter().map(|row| {
        let (ours, compared) = (or_none(&row.ours), or_none(&row.compared));
        let Row { line, what, figure, to, bound, verdict, .. } = row;
        [line, what, figure, &ours, &compared, to, bound, verdict].map(String::clone).to_vec()
    });
    vhost_user_blkmq::testkit::measure::table(8, &head, &cells.collect::<Vec<_>>())
}

/// What a run of the bar showed.
#[derive(Default, Serialize)]
pub(crate) struct Outcome {
    pub(crate) cells: Vec<Cell>,
    pub(crate) rows: Vec<Row>,
    pub(crate) idle: Vec<Idle>,
}

/// Runs the lines.
pub(crate) struct Bar<'a> {
    args: &'a Args,
    say: fn(&str),
    images: Vec<(On, Image)>,
    outcome: Outcome,
}

impl<'a> Bar<'a> {
    /// Runs all lines that are wanted, saying how it goes.
    pub(crate) fn run(args: &'a Args, say: fn(&str)) -> Result<Outcome, String> {
        let known = ["P9", "P10", "P11", "P12"];
        let known = |id: &String| known.contains(&&**id) || LINES.iter().any(|line| line.id == id);
        if let Some(unknown) = args.lines.iter().find(|id| !known(id)) {
            return Err(format!("--lines {unknown}: there are P1 to P13"));
        }
        let mut bar = Bar { args, say, images: Vec::new(), outcome: Outcome::default() };
        let wanted = |id: &str| args.lines.is_empty() || args.lines.iter().any(|line| line == id);
        for line in LINES.iter().filter(|line| wanted(line.id) && line.id != "P13") {
            bar.line(line)?;
        }
        if wanted("P9") {
            bar.two_threads()?;
        }
        if wanted("P10") {
            let row = Row::absent("P10", "cost of a scheduler", "see ci/bench-sched");
            bar.outcome.rows.push(row);
        }
        if wanted("P11") {
            let why = "counted under callgrind, not timed here";
            bar.outcome.rows.push(Row::absent("P11", "instructions of a read", why));
        }
        if wanted("P12") {
            bar.idle()?;
        }
        for line in LINES.iter().filter(|line| wanted(line.id) && line.id == "P13") {
            bar.line(line)?;
        }
        Ok(bar.outcome)
    }

    fn image(&mut self, on: On) -> Result<&Image, String> {
        if let Some(at) = self.images.iter().position(|(which, _)| *which == on) {
            return Ok(&self.images[at].1);
        }
        let place = match on {
            On::Null => Place::Null,
            On::Ram => Place::Tmpfs,
            On::Disk => Place::Dir(self.args.disk.clone()),
        };
        let image = Image::make(&place, self.args.size as u64)?;
        self.images.push((on, image));
        Ok(&self.images[self.images.len() - 1].1)
    }

    fn cell(&mut self, scene: &mut Scene, load: &Load) -> Result<Cell, String> {
        let cell = scene.measure(load, &self.args.pace())?;
        (self.say)(&report::cell(&cell));
        self.outcome.cells.push(cell.clone());
        Ok(cell)
    }

    fn line(&mut self, line: &Line) -> Result<(), String> {
        let (args, mut seats) = (self.args, self.args.seats()?);
        if line.one_cpu {
            seats.client.clone_from(&seats.backend);
        }
        let raw = line.wants.iter().any(|Want(_, _, against)| {
            matches!(against, AtLeast(_, "raw") | AtMost(_, "raw") | Plus(_, "raw"))
        });
        let mut contenders = args.contenders(line.queues, &seats)?;
        contenders.retain(|c| raw || c.kind != Kind::Raw);
        let admin = tempfile::tempdir().map_err(|error| error.to_string())?;
        let admin = admin.path().join("admin");
        let counts = line.id == "P8";
        if let (true, Kind::Ours { options, .. }) = (counts, &mut contenders[0].kind) {
            options.push(format!("--admin-socket={}", admin.display()));
        }
        let load = |&(pattern, block, depth)| Load { pattern, block, depth };
        let loads: Vec<Load> = line.loads.iter().map(load).collect();
        let mut scene = Scene::open(self.image(line.on)?, &contenders, &loads, args.poll)?;
        for load in &loads {
            let cell = self.cell(&mut scene, load)?;
            let ours = &cell.series[0];
            let rows = line.wants.iter().map(|want| want.row(line.id, &cell, ours));
            self.outcome.rows.extend(rows);
            if counts {
                let syncs = scene.awake(&ours.name, || syncs_per_flush(&admin));
                let syncs = syncs.ok_or("ours is there")?;
                let range = Range { min: syncs, median: syncs, max: syncs };
                let row = Row::absolute("P8", &cell.title(), "syncs/flush", range, SYNCS);
                self.outcome.rows.push(row);
            }
        }
        Ok(())
    }

    /// P9.
    fn two_threads(&mut self) -> Result<(), String> {
        let what = "null, two queues and threads against one";
        let cpus = vhost_user_blkmq::sys::affinity::allowed_cpus().map_err(|e| e.to_string())?;
        let Some([a, b, c, d]) = cpus.first_chunk() else {
            let why = format!("not run: it needs 4 CPUs, there are {}", cpus.len());
            self.outcome.rows.push(Row::absent("P9", what, &why));
            return Ok(());
        };
        let contender = |name: &str, queues: usize| -> Result<Contender, String> {
            let seats = Seats { client: vec![*a, *b], backend: vec![*c, *d] };
            let mut one = self.args.contenders(queues, &seats)?.swap_remove(0);
            if let Kind::Ours { options, .. } = &mut one.kind {
                options.push(format!(
                    "--cpus={}",
                    [*c, *d].map(|n| n.to_string())[..queues].join(",")
                ));
            }
            one.name = name.to_owned();
            Ok(one)
        };
        let contenders = [contender("two", 2)?, contender("one", 1)?];
        let load = Load { pattern: Pattern::RandRead, block: K4, depth: 32 };
        let poll = self.args.poll;
        let mut scene = Scene::open(self.image(On::Null)?, &contenders, &[load], poll)?;
        let cell = self.cell(&mut scene, &load)?;
        let row = iops(AtLeast(TWO_THREADS, "one")).row("P9", &cell, &cell.series[0]);
        self.outcome.rows.push(row);
        Ok(())
    }

    /// P12.
    fn idle(&mut self) -> Result<(), String> {
        let (args, seats) = (self.args, self.args.seats()?);
        let contenders = args.contenders(4, &seats)?;
        let image = self.image(On::Ram)?;
        let all: Result<Vec<Idle>, String> = contenders
            .iter()
            .filter(|c| c.kind != Kind::Raw)
            .map(|contender| idle::measure(contender, image))
            .collect();
        let all = all?;
        (self.say)(&idle::table(&all));
        let ours = &all[0];
        let one = |n: f64| Range { min: n, median: n, max: n };
        let (wakeups, resident, ready) = IDLE;
        let rows = [
            ("wake-ups", "in 10 s", one(ours.wakeups as f64), wakeups),
            ("resident", "MiB", one(ours.resident_mib), resident),
            ("ready socket", "ms", ours.ready_ms, ready),
        ];
        self.outcome.rows.extend(rows.map(|(what, figure, range, bound)| {
            Row::absolute("P12", &format!("idle, 4 queues: {what}"), figure, range, bound)
        }));
        self.outcome.idle = all;
        Ok(())
    }
}

/// How many syncs our daemon made for each flush that it was asked for.
fn syncs_per_flush(socket: &std::path::Path) -> f64 {
    let mut admin = Admin::connect(socket);
    let stats = admin.call("disk.stats", &json!({"disk": "disk", "queues": false}));
    let number = |pointer: &str| stats.pointer(pointer).and_then(serde_json::Value::as_f64);
    let of = |pointer: &str| number(pointer).expect("a number that disk.stats promises");
    of("/total/iostat/flush_ios") / of("/total/flush_bios")
}

/// Cells made up for tests.
#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "a bench has the tests but not what runs them")]
pub(crate) mod testing {
    use super::super::noise::Disturbance;
    use super::super::scene::Sample;
    use super::*;

    /// With these figures as thousands of IOPS, microseconds of latency, and of CPU time.
    pub(crate) fn series(name: &str, figures: &[f64]) -> Series {
        let sample = |&n: &f64| Sample {
            iops: n * 1000.0,
            p50_us: n,
            p99_us: n,
            p999_us: n,
            backend_us: (name != "raw").then_some(n),
            client_us: 1.0,
        };
        let rounds = figures.iter().map(sample).collect();
        Series { name: name.to_owned(), queues: 1, raw: name == "raw", rounds }
    }

    pub(crate) fn cell(all: Vec<Series>) -> Cell {
        let load = Load { pattern: Pattern::RandRead, block: 4096, depth: 32 };
        let disturbance = Disturbance { others: 0.0, stolen: 0.0 };
        Cell { image: "null".to_owned(), load, one_cpu: false, series: all, disturbance }
    }
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "a bench has the tests but not what runs them")]
mod tests {
    use super::testing::{cell, series};
    use super::*;

    #[test]
    fn a_bound_between_the_rounds_is_not_clear() {
        let range = Range { min: 1.0, median: 2.0, max: 3.0 };
        for (bound, least, most) in [
            (0.9, "met", "SHORT"),
            (1.0, "met", "SHORT"),
            (1.5, "met?", "SHORT?"),
            (2.0, "met?", "met?"),
            (2.5, "SHORT?", "met?"),
            (3.0, "SHORT", "met"),
            (3.1, "SHORT", "met"),
        ] {
            assert_eq!(verdict(&range, true, bound), least, "{bound}");
            assert_eq!(verdict(&range, false, bound), most, "{bound}");
        }
    }

    #[test]
    fn each_want_compares_round_by_round() {
        let cell = cell(vec![series("ours", &[10.0, 11.0, 12.0]), series("qsd", &[5.0, 5.0, 5.0])]);
        let row = |want: Want| want.row("P0", &cell, &cell.series[0]);
        let found = row(iops(AtLeast(2.0, "qsd")));
        let compared = found.compared.expect("both are there");
        assert_eq!((compared.min, compared.median, compared.max), (2.0, 2.2, 2.4));
        assert_eq!((found.verdict.as_str(), found.bound.as_str()), ("met", ">= x 2"));
        assert_eq!(row(cpu_time(AtMost(2.0, "qsd"))).verdict, "SHORT");
        let found = row(p50(Plus(6.5, "qsd")));
        assert_eq!((found.verdict.as_str(), found.bound.as_str()), ("met?", "<= +6.5"));
        assert_eq!(row(iops(AtLeast(1.0, "raw"))).verdict, "not run");
    }

    #[test]
    fn a_noisy_cell_is_called_so() {
        let cell = cell(vec![series("ours", &[10.0, 20.0]), series("qsd", &[5.0, 5.0])]);
        let row = iops(AtLeast(1.0, "qsd")).row("P0", &cell, &cell.series[0]);
        assert_eq!(row.verdict, "met (noisy)");
        assert_eq!(cell.complaints(), ["ours's rounds are 67 % apart"]);
    }

    #[test]
    fn figures_with_a_bound_of_their_own() {
        let range = Range { min: 8.0, median: 9.0, max: 30.0 };
        let row = Row::absolute("P12", "what", "ms", range, 20.0);
        assert_eq!((row.verdict.as_str(), row.bound.as_str()), ("met?", "<= 20"));
        let shown = table(&[row, Row::absent("P9", "more", "not run: why")]);
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[1].contains("9.00 [8.00 30.00]") && lines[1].ends_with("met?"));
        assert!(lines[2].starts_with("P9 ") && lines[2].ends_with("not run: why"));
    }

    #[test]
    fn every_line_can_be_named_and_wants_something() {
        for line in LINES {
            assert!(!line.loads.is_empty() && !line.wants.is_empty(), "{}", line.id);
            let raw_on_null = line.on == On::Null
                && line.wants.iter().any(|w| matches!(w.2, AtLeast(_, "raw") | Plus(_, "raw")));
            assert!(!raw_on_null, "{}: there is no bare file", line.id);
        }
    }
}
