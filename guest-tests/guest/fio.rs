//! fio in the guest: what it shall do, and what it says it did.

use serde_json::Value;

/// A fio run over one file or disk. All jobs verify what they wrote with CRC32C.
#[derive(Clone, Debug)]
pub(crate) struct Fio {
    file: String,
    jobs: u32,
    mebibytes: u64,
    depth: u32,
    block: String,
    engine: String,
    pattern: String,
    extra: Vec<String>,
}

/// What fio reported, summed over its jobs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// Reads, verification included.
    pub(crate) reads: u64,
    /// Writes.
    pub(crate) writes: u64,
    /// Reads and writes per second of run time.
    pub(crate) iops: u64,
}

impl Fio {
    /// Random reads and writes of 4 KiB on `file`, 32 in flight for each of `jobs` jobs. Every job
    /// has `mebibytes` of its own, writes each block of it at most once, and reads all that it
    /// wrote back. Job n is bound to CPU n, so that with one queue per CPU all queues work.
    pub(crate) fn verify(file: &str, jobs: u32, mebibytes: u64) -> Self {
        Fio {
            file: file.to_string(),
            jobs,
            mebibytes,
            depth: 32,
            block: "4k".to_string(),
            engine: "libaio".to_string(),
            pattern: "randrw".to_string(),
            extra: Vec::new(),
        }
    }

    /// With another pattern than `randrw`.
    pub(crate) fn pattern(mut self, pattern: &str) -> Self {
        self.pattern = pattern.to_string();
        self
    }

    /// With other block sizes: fio's `bs` or `bsrange` notation (`512-64k`).
    pub(crate) fn block(mut self, block: &str) -> Self {
        self.block = block.to_string();
        self
    }

    /// With another engine and further options.
    pub(crate) fn engine(mut self, engine: &str, depth: u32) -> Self {
        self.engine = engine.to_string();
        self.depth = depth;
        self
    }

    /// One more option, as on fio's command line but without the dashes.
    pub(crate) fn with(mut self, option: &str) -> Self {
        self.extra.push(option.to_string());
        self
    }

    /// The shell text that runs it and prints the report.
    pub(crate) fn script(&self) -> String {
        let size = if self.block.contains('-') { "bsrange" } else { "bs" };
        let mut words = vec![
            "fio --name=verify --direct=1 --thread --verify=crc32c --verify_fatal=1 --group_reporting".to_string(),
            "--randrepeat=1 --allrandrepeat=1 --output-format=json".to_string(),
            format!("--filename={} --rw={} --{size}={}", self.file, self.pattern, self.block),
            format!("--ioengine={} --iodepth={} --numjobs={}", self.engine, self.depth, self.jobs),
            format!("--size={0}M --offset_increment={0}M", self.mebibytes),
            format!("--cpus_allowed=0-{} --cpus_allowed_policy=split", self.jobs - 1),
        ];
        words.extend(self.extra.iter().map(|option| format!("--{option}")));
        // fio warns on stdout too; the report alone goes to the file.
        format!(
            "report=/tmp/fio.$$; {} --output=$report; status=$?; echo; echo @REPORT; cat $report; exit $status",
            words.join(" ")
        )
    }
}

impl Report {
    /// Reads the report from what the guest printed; errors that fio counted are a panic.
    pub(crate) fn parse(output: &str) -> Self {
        let (_, json) =
            output.split_once("@REPORT\n").unwrap_or_else(|| panic!("no report: {output}"));
        let begin = json.find('{').unwrap_or_else(|| panic!("no report: {output}"));
        let whole: Value = serde_json::from_str(&json[begin..])
            .unwrap_or_else(|error| panic!("{error}: {output}"));
        let mut report = Report { reads: 0, writes: 0, iops: 0 };
        for job in whole["jobs"].as_array().expect("fio's jobs") {
            assert_eq!(job["error"], 0, "fio counted an error: {output}");
            let of = |way: &str, what: &str| job[way][what].as_f64().unwrap_or(0.0).round();
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "counts of a run of seconds are small and not negative"
            )]
            {
                report.reads += of("read", "total_ios") as u64;
                report.writes += of("write", "total_ios") as u64;
                report.iops += (of("read", "iops") + of("write", "iops")) as u64;
            }
        }
        report
    }
}
