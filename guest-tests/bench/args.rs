//! What may be asked for on the command line.

use std::path::PathBuf;

use clap::Parser;
use serde::Serialize;
use vhost_user_blkmq::sys::affinity::allowed_cpus;

use super::backend::{Kind, Place};
use super::load::{Load, Pattern, bytes};
use super::scene::{Contender, Pace};

/// Measures back-ends beside each other: a libblkio client drives this program,
/// qemu-storage-daemon and any other in interleaved rounds, and the bare file without a back-end
/// (raw). Without a pattern it runs every line of the bar and says which are met.
#[derive(Clone, Debug, Parser)]
#[command(name = "ci/bench", bin_name = "ci/bench", disable_version_flag = true)]
pub(crate) struct Args {
    /// The lines of the bar (what is run when there is no --pattern)
    #[arg(long)]
    pub(crate) bar: bool,
    /// Only these lines of the bar: P1,P2
    #[arg(long, value_delimiter = ',', value_name = "LINES", conflicts_with = "pattern")]
    pub(crate) lines: Vec<String>,
    /// In a guest under QEMU, beside QEMU's own virtio-blk: fio with 1 and 4 jobs, 1 and 32 deep
    #[arg(long, conflicts_with_all = ["bar", "lines", "pattern", "one_cpu", "poll"])]
    pub(crate) guest: bool,
    /// What is asked for
    #[arg(long, value_delimiter = ',', conflicts_with = "bar")]
    pub(crate) pattern: Vec<Pattern>,
    /// Where: null, tmpfs, file:DIR (a file made in DIR), block:DEVICE (what is on it is lost)
    #[arg(long, value_delimiter = ',', value_parser = Place::parse, default_value = "tmpfs")]
    pub(crate) image: Vec<Place>,
    /// Sizes of a request
    #[arg(long, value_delimiter = ',', value_parser = bytes, default_value = "4K")]
    pub(crate) block: Vec<usize>,
    /// Outstanding requests of each queue
    #[arg(long, value_delimiter = ',', default_value = "32")]
    pub(crate) depth: Vec<usize>,
    /// Virtqueues, each with a client thread
    #[arg(long, default_value_t = 1)]
    pub(crate) queues: usize,
    /// Queue threads of ours
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Scheduler of ours
    #[arg(long, value_name = "NAME")]
    pub(crate) scheduler: Option<String>,
    /// One more option for ours, as --option=--nomerges=2
    #[arg(long, value_name = "OPTION")]
    pub(crate) option: Vec<String>,
    /// A build of ours, or several to compare, the first being what others are compared to
    #[arg(long, value_name = "[LABEL=]PROGRAM")]
    pub(crate) ours: Vec<String>,
    /// Another back-end; {socket}, {image} and {queues} are replaced in the command, whose own
    /// process is the one that is looked at
    #[arg(long, value_name = "NAME=COMMAND")]
    pub(crate) peer: Vec<String>,
    /// Leave these out: qsd, raw
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub(crate) without: Vec<String>,
    /// Rounds in which everyone has a turn
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) rounds: u16,
    /// Length of a turn; a fifth more is spent on warming up
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    pub(crate) seconds: f64,
    /// Size of the image
    #[arg(long, value_parser = bytes, default_value = "512M")]
    pub(crate) size: usize,
    /// Where the bar's disk lines make their file: on a file system with O_DIRECT
    #[arg(long, value_name = "DIR", default_value = env!("CARGO_TARGET_TMPDIR"))]
    pub(crate) disk: PathBuf,
    /// Client and back-end share one CPU
    #[arg(long)]
    pub(crate) one_cpu: bool,
    /// The client's CPUs (else the first one)
    #[arg(long, value_delimiter = ',', value_name = "CPUS")]
    pub(crate) client_cpus: Vec<usize>,
    /// The back-end's (else the last one)
    #[arg(long, value_delimiter = ',', value_name = "CPUS")]
    pub(crate) backend_cpus: Vec<usize>,
    /// The client polls its rings and never sleeps (without raw: libblkio cannot do that)
    #[arg(long)]
    pub(crate) poll: bool,
    /// Write all figures of all rounds to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write a picture to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// What cargo adds
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|n| (0.01..=600.0).contains(n));
    number.ok_or_else(|| format!("{text}: give seconds, 0.01 to 600"))
}

/// CPUs of a client and a back-end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Seats {
    pub(crate) client: Vec<usize>,
    pub(crate) backend: Vec<usize>,
}

impl Args {
    /// What clap cannot know, checked.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.depth.iter().any(|d| !(1..=1024).contains(d)) {
            return Err("--depth: give 1 to 1024".to_owned());
        }
        if self.block.iter().any(|b| *b == 0 || !b.is_multiple_of(512) || *b > self.size) {
            return Err("--block: give multiples of 512, not more than the image".to_owned());
        }
        if !(1..=64).contains(&self.queues) {
            return Err("--queues: give 1 to 64".to_owned());
        }
        if let Some(name) = self.without.iter().find(|n| !["qsd", "raw"].contains(&n.as_str())) {
            return Err(format!("--without {name}: only qsd and raw can be left out"));
        }
        let mut names: Vec<String> =
            self.contenders(1, &self.seats()?)?.into_iter().map(|c| c.name).collect();
        names.sort();
        match names.windows(2).find(|two| two[0] == two[1]) {
            Some(two) => Err(format!("two are called {}: give each its LABEL=", two[0])),
            None => Ok(()),
        }
    }

    /// All combinations of patterns, blocks and depths.
    pub(crate) fn loads(&self) -> Vec<Load> {
        let mut all = Vec::new();
        for &block in &self.block {
            for &depth in &self.depth {
                all.extend(self.pattern.iter().map(|&pattern| Load { pattern, block, depth }));
            }
        }
        all
    }

    /// How long and how often.
    pub(crate) fn pace(&self) -> Pace {
        Pace { rounds: self.rounds.into(), seconds: self.seconds, poll: self.poll }
    }

    /// The CPUs that are asked for, or the first and the last one: those are the least likely to
    /// be two halves of one core.
    pub(crate) fn seats(&self) -> Result<Seats, String> {
        let allowed = allowed_cpus().map_err(|error| error.to_string())?;
        let all = self.client_cpus.iter().chain(&self.backend_cpus);
        if let Some(cpu) = all.clone().find(|cpu| !allowed.contains(cpu)) {
            return Err(format!("CPU {cpu} cannot be used: there are {allowed:?}"));
        }
        let or = |given: &[usize], else_: Option<&usize>| match given {
            [] => else_.copied().into_iter().collect(),
            given => given.to_vec(),
        };
        let backend = or(&self.backend_cpus, allowed.last());
        let client = or(&self.client_cpus, allowed.first());
        let client = if self.one_cpu { backend.clone() } else { client };
        Ok(Seats { client, backend })
    }

    /// The builds of ours, by label.
    pub(crate) fn builds(&self) -> Vec<(String, PathBuf)> {
        if self.ours.is_empty() {
            return vec![("ours".to_owned(), crate::common::daemon::program())];
        }
        let split = |text: &String| match text.split_once('=') {
            Some((label, path)) => (label.to_owned(), PathBuf::from(path)),
            None => ("ours".to_owned(), PathBuf::from(text)),
        };
        self.ours.iter().map(split).collect()
    }

    /// Everyone with that many queues, ours first, the bare file last.
    pub(crate) fn contenders(
        &self,
        queues: usize,
        seats: &Seats,
    ) -> Result<Vec<Contender>, String> {
        let mut options = self.option.clone();
        options.extend(self.threads.map(|n| format!("--threads={n}")));
        options.extend(self.scheduler.as_ref().map(|name| format!("--scheduler={name}")));
        let mut all: Vec<(String, Kind)> = self
            .builds()
            .into_iter()
            .map(|(name, program)| (name, Kind::Ours { program, options: options.clone() }))
            .collect();
        let wanted = |name: &str| !self.without.iter().any(|without| without == name);
        all.extend(wanted("qsd").then(|| ("qsd".to_owned(), Kind::Qsd)));
        for peer in &self.peer {
            let (name, command) = peer
                .split_once('=')
                .filter(|(name, command)| !name.is_empty() && !command.is_empty())
                .ok_or_else(|| format!("--peer {peer}: give NAME=COMMAND"))?;
            all.push((name.to_owned(), Kind::Peer(command.to_owned())));
        }
        // libblkio's io_uring driver dies when it is asked again and again for nothing.
        all.extend((wanted("raw") && !self.poll).then(|| ("raw".to_owned(), Kind::Raw)));
        let Seats { client, backend } = seats;
        let contender = |(name, kind)| {
            let (client, backend) = (client.clone(), backend.clone());
            Contender { name, kind, queues, client, backend }
        };
        Ok(all.into_iter().map(contender).collect())
    }
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "a bench has the tests but not what runs them")]
mod tests {
    use super::*;

    fn parse(words: &str) -> Args {
        let words = std::iter::once("ci/bench").chain(words.split_whitespace());
        Args::try_parse_from(words).expect("it can be understood")
    }

    fn refused(words: &str) -> String {
        let words = std::iter::once("ci/bench").chain(words.split_whitespace());
        match Args::try_parse_from(words) {
            Ok(args) => args.check().expect_err("it makes no sense"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn loads_are_all_combinations() {
        let args = parse("--pattern randread,seqwrite --block 4K,128K --depth 1,32");
        assert_eq!(args.check(), Ok(()));
        let shown: Vec<String> = args.loads().iter().map(ToString::to_string).collect();
        let want = [
            "randread 4K QD1",
            "seqwrite 4K QD1",
            "randread 4K QD32",
            "seqwrite 4K QD32",
            "randread 128K QD1",
            "seqwrite 128K QD1",
            "randread 128K QD32",
            "seqwrite 128K QD32",
        ];
        assert_eq!(shown, want);
        assert!(parse("").loads().is_empty());
    }

    #[test]
    fn everyone_is_there_unless_left_out() {
        let names = |words: &str| -> Vec<String> {
            let args = parse(words);
            let all = args.contenders(3, &args.seats().expect("seats")).expect("all");
            assert!(all.iter().all(|c| c.queues == 3));
            all.into_iter().map(|c| c.name).collect()
        };
        assert_eq!(names(""), ["ours", "qsd", "raw"]);
        assert_eq!(names("--without qsd,raw"), ["ours"]);
        assert_eq!(names("--poll --pattern randread"), ["ours", "qsd"]);
        let words = "--ours base=/a --ours tree=/b --peer spdk=x=y --without qsd";
        assert_eq!(names(words), ["base", "tree", "spdk", "raw"]);
    }

    #[test]
    fn ours_gets_its_options() {
        let args = parse("--ours /p --option=--nomerges=2 --threads 3 --scheduler kyber,x=1");
        let all = args.contenders(1, &args.seats().expect("seats")).expect("all");
        let options =
            ["--nomerges=2", "--threads=3", "--scheduler=kyber,x=1"].map(str::to_owned).to_vec();
        assert_eq!(all[0].kind, Kind::Ours { program: PathBuf::from("/p"), options });
    }

    #[test]
    fn client_and_back_end_sit_apart_unless_told() {
        let allowed = allowed_cpus().expect("the kernel tells");
        let (first, last) = (allowed[0], allowed[allowed.len() - 1]);
        let seats = |words: &str| parse(words).seats().map(|s| (s.client, s.backend));
        assert_eq!(seats(""), Ok((vec![first], vec![last])));
        assert_eq!(seats("--one-cpu"), Ok((vec![last], vec![last])));
        let words = format!("--client-cpus {last} --backend-cpus {first},{last}");
        assert_eq!(seats(&words), Ok((vec![last], vec![first, last])));
        let refused = seats("--client-cpus 1023").expect_err("no machine of ours has it");
        assert!(refused.starts_with("CPU 1023 cannot be used"), "{refused}");
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        for (words, reason) in [
            ("--depth 0", "1 to 1024"),
            ("--block 100", "multiples of 512"),
            ("--block 1M --size 512K", "not more than the image"),
            ("--queues 0", "1 to 64"),
            ("--without ours", "only qsd and raw"),
            ("--ours /a --ours /b", "two are called ours"),
            ("--peer qsd=x", "two are called qsd"),
            ("--peer spdk", "NAME=COMMAND"),
            ("--rounds 0", "rounds"),
            ("--seconds 0", "0.01 to 600"),
            ("--image floppy", "no image"),
            ("--pattern randread --bar", "cannot be used"),
            ("--pattern randread --lines P1", "cannot be used"),
            ("--guest --pattern randread", "cannot be used"),
            ("--guest --lines P1", "cannot be used"),
        ] {
            let said = refused(words);
            assert!(said.contains(reason), "{words}: {said}");
        }
    }
}
