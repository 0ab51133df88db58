//! Back-ends side by side on one image, and the rounds in which they take turns.

use std::time::Duration;

use serde::Serialize;
use vhost_user_blkmq::testkit::measure::process_cpu_time;

use super::args::Args;
use super::backend::{Backend, Image, Kind, Place};
use super::client::{Client, Counted, Watch};
use super::load::Load;
use super::noise::{self, Disturbance, Ran};
use super::report;
use super::stats::Range;

/// Who is measured, and where.
#[derive(Clone, Debug)]
pub(crate) struct Contender {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// Virtqueues.
    pub(crate) queues: usize,
    /// The client's CPUs.
    pub(crate) client: Vec<usize>,
    /// The back-end's.
    pub(crate) backend: Vec<usize>,
}

/// How long, how often.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Pace {
    pub(crate) rounds: usize,
    /// Of each turn; a fifth more is spent on warming up.
    pub(crate) seconds: f64,
    /// The client never sleeps.
    pub(crate) poll: bool,
}

/// What one turn showed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Sample {
    pub(crate) iops: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    /// CPU time of the back-end for each request; none without a back-end.
    pub(crate) backend_us: Option<f64>,
    /// CPU time of the client for each request; not a number where nobody can count it.
    pub(crate) client_us: f64,
}

impl Sample {
    fn of(counted: &Counted) -> Sample {
        let us = |nanos: u64| nanos as f64 / 1000.0;
        let each = |nanos: u64| us(nanos) / counted.ios.max(1) as f64;
        Sample {
            iops: counted.iops(),
            p50_us: us(counted.latency.percentile(500)),
            p99_us: us(counted.latency.percentile(990)),
            p999_us: us(counted.latency.percentile(999)),
            backend_us: counted.backend.map(each),
            client_us: each(counted.client),
        }
    }
}

/// What a contender showed in all rounds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) queues: usize,
    /// The bare file: the client's CPU time is all that there is.
    pub(crate) raw: bool,
    pub(crate) rounds: Vec<Sample>,
}

/// A figure of a sample.
pub(crate) type Figure = fn(&Sample) -> f64;

impl Series {
    fn figures(&self, figure: Figure) -> Vec<f64> {
        self.rounds.iter().map(figure).collect()
    }

    /// A figure over all rounds.
    pub(crate) fn range(&self, figure: Figure) -> Range {
        Range::of(&self.figures(figure)).expect("there is at least one round")
    }

    /// A figure compared to another's, round by round.
    pub(crate) fn compared(
        &self,
        other: &Series,
        figure: Figure,
        what: impl Fn(f64, f64) -> f64,
    ) -> Range {
        let (mine, theirs) = (self.figures(figure), other.figures(figure));
        Range::paired(&mine, &theirs, what).expect("both were there in every round")
    }
}

/// CPU time for each request of who serves it: of the back-end, or of the client on a bare file.
pub(crate) fn cpu(sample: &Sample) -> f64 {
    sample.backend_us.unwrap_or(sample.client_us)
}

/// One load on one image, by everyone.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Cell {
    pub(crate) image: String,
    pub(crate) load: Load,
    /// Client and back-end shared a CPU.
    pub(crate) one_cpu: bool,
    pub(crate) series: Vec<Series>,
    pub(crate) disturbance: Disturbance,
}

impl Cell {
    /// What it is about.
    pub(crate) fn title(&self) -> String {
        let queues = self.series.iter().map(|s| s.queues).max().unwrap_or(1);
        let queues = if queues > 1 { format!(" x {queues} queues") } else { String::new() };
        let cpu = if self.one_cpu { ", one CPU" } else { "" };
        format!("{}, {}{queues}{cpu}", self.image, self.load)
    }

    /// By name.
    pub(crate) fn series(&self, name: &str) -> Option<&Series> {
        self.series.iter().find(|series| series.name == name)
    }

    /// Why its figures may mean little; empty when it was quiet.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let mut all = self.disturbance.complaints();
        for series in &self.series {
            let spread = series.range(|s| s.iops).spread();
            if spread > noise::SPREAD {
                all.push(format!("{}'s rounds are {:.0} % apart", series.name, spread * 100.0));
            }
        }
        all
    }
}

struct Player {
    contender: Contender,
    backend: Backend,
    client: Client,
    _dir: tempfile::TempDir,
}

/// Everyone, started and connected, asleep until his turn.
pub(crate) struct Scene {
    image: &'static str,
    players: Vec<Player>,
}

impl Scene {
    /// Starts everyone on `image`, ready for any of `loads`.
    pub(crate) fn open(
        image: &Image,
        contenders: &[Contender],
        loads: &[Load],
        poll: bool,
    ) -> Result<Scene, String> {
        let depth = loads.iter().map(|l| l.depth).max().unwrap_or(1);
        let bytes = loads.iter().map(|l| l.depth * l.block).max().unwrap_or(4096);
        let mut players = Vec::new();
        for contender in contenders {
            let Contender { name, kind, queues, backend, .. } = contender;
            let named = |error: String| format!("{name}: {error}");
            // A short path: a socket's has at most 107 bytes.
            let dir = tempfile::Builder::new().prefix("blkmq-bench-").tempdir();
            let dir = dir.map_err(|e| named(e.to_string()))?;
            let mut backend =
                Backend::start(kind, image, *queues, backend, dir.path()).map_err(named)?;
            let client = backend.connect(*queues, depth, bytes * queues, poll).map_err(named)?;
            backend.pause();
            let contender = contender.clone();
            players.push(Player { contender, backend, client, _dir: dir });
        }
        Ok(Scene { image: image.place.name(), players })
    }

    /// Runs a load: everyone once in each round, forwards and backwards by turns, so that a slow
    /// moment helps or hurts nobody more than the others.
    pub(crate) fn measure(&mut self, load: &Load, pace: &Pace) -> Result<Cell, String> {
        let cpus = self.cpus();
        let (before, own) = (Ran::now(&cpus), self.own_time());
        let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); self.players.len()];
        for round in 0..pace.rounds {
            for i in 0..self.players.len() {
                let i = if round % 2 == 0 { i } else { self.players.len() - 1 - i };
                samples[i].push(self.players[i].turn(load, pace)?);
            }
        }
        let disturbance = Ran::now(&cpus).since(&before, self.own_time() - own);
        let series = self.players.iter().zip(samples).map(|(player, rounds)| Series {
            name: player.contender.name.clone(),
            queues: player.contender.queues,
            raw: player.contender.kind == Kind::Raw,
            rounds,
        });
        let one_cpu = self.players.iter().any(|p| p.contender.client == p.contender.backend);
        let (image, load) = (self.image.to_owned(), *load);
        Ok(Cell { image, load, one_cpu, series: series.collect(), disturbance })
    }

    fn cpus(&self) -> Vec<usize> {
        let all = self.players.iter().map(|p| &p.contender);
        let mut cpus: Vec<usize> =
            all.flat_map(|c| c.client.iter().chain(&c.backend).copied()).collect();
        cpus.sort_unstable();
        cpus.dedup();
        cpus
    }

    /// CPU time of the bench and of all back-ends, in seconds.
    fn own_time(&self) -> f64 {
        let pids = self.players.iter().filter_map(|p| p.backend.pid());
        let nanos = pids.chain([std::process::id()]).filter_map(|pid| process_cpu_time(pid).ok());
        nanos.map(|n| n.0 as f64 / 1e9).sum()
    }

    /// Does something with a contender awake.
    pub(crate) fn awake<T>(&self, name: &str, what: impl FnOnce() -> T) -> Option<T> {
        let player = self.players.iter().find(|p| p.contender.name == name)?;
        player.backend.resume();
        let done = what();
        player.backend.pause();
        Some(done)
    }
}

/// The measurements that the command line asks for, each said as soon as it is there.
pub(crate) fn all(args: &Args, say: fn(&str)) -> Result<Vec<Cell>, String> {
    let (seats, loads) = (args.seats()?, args.loads());
    let mut cells = Vec::new();
    for place in &args.image {
        let image = Image::make(place, args.size as u64)?;
        let mut contenders = args.contenders(args.queues, &seats)?;
        // Nothing has no bare file.
        contenders.retain(|c| *place != Place::Null || c.kind != Kind::Raw);
        let mut scene = Scene::open(&image, &contenders, &loads, args.poll)?;
        for load in &loads {
            let cell = scene.measure(load, &args.pace())?;
            say(&report::cell(&cell));
            cells.push(cell);
        }
    }
    Ok(cells)
}

impl Player {
    fn turn(&mut self, load: &Load, pace: &Pace) -> Result<Sample, String> {
        let measured = Duration::from_secs_f64(pace.seconds);
        let watch = Watch {
            warm_up: measured / 5,
            measured,
            pid: self.backend.pid(),
            cpus: self.contender.client.clone(),
        };
        self.backend.resume();
        let counted = self.client.run(load, &watch);
        self.backend.pause();
        let counted = counted.map_err(|error| {
            format!("{}: {error}: {}", self.contender.name, self.backend.said())
        })?;
        Ok(Sample::of(&counted))
    }
}
