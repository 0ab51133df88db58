//! Counters, histograms and requests in progress, in the words of the admin socket.

use std::sync::Arc;

use super::service::DiskService;
use crate::blkmq::stats::{Batch, Distribution, IoStat, Kind, OpStats, QueueStats, Span, Stats};
use crate::blkmq::{Gauges, Overdue, Stage};
use crate::block::{Class, Op};
use crate::control::admin::SteerError;
use crate::control::admin::shape::{
    self, ClassName, Counters, DiskStats, Histogram, Inspection, Iostat, Measure, OpName,
    RequestInProgress,
};
use crate::device::mailbox::QueueReport;
use crate::sys::clock;

const MS: u64 = 1_000_000;

/// `disk.stats`.
pub(super) fn disk_stats(
    served: &DiskService,
    queues: bool,
    buckets: bool,
) -> Result<DiskStats, SteerError> {
    let disk = &served.disk;
    let reports = served.pool.inspect(disk.id)?;
    let all: Vec<_> = disk.stats.queues().map(|(_, queue)| Arc::clone(queue)).collect();
    let mut total = counters(&all, buckets);
    total.iostat = iostat(&disk.stats.iostat(clock::now()));
    total.gauges = reports
        .iter()
        .fold(shape::Gauges::default(), |sum, (_, report)| plus(sum, gauges(&report.gauges)));
    let queue = |(n, stats): (u16, &Arc<QueueStats>)| {
        let mut counters = counters(std::slice::from_ref(stats), buckets);
        let report = reports.iter().find(|(_, report)| report.queue.0 == n);
        counters.gauges = report.map(|(_, report)| gauges(&report.gauges)).unwrap_or_default();
        let thread = report.map_or(0, |(thread, _)| *thread);
        shape::QueueStats { queue: n, thread, counters }
    };
    // A queue that was never used says nothing.
    let used = |(_, stats): &(u16, &Arc<QueueStats>)| stats.snapshot() != Stats::default();
    let queues =
        if queues { disk.stats.queues().filter(used).map(queue).collect() } else { Vec::new() };
    Ok(DiskStats { disk: disk.name.clone(), total, queues })
}

/// `disk.inspect`.
pub(super) fn inspect(served: &DiskService, most: u32) -> Result<Inspection, SteerError> {
    let disk = &served.disk;
    let reports = served.pool.inspect(disk.id)?;
    let mut requests: Vec<RequestInProgress> = reports
        .iter()
        .flat_map(|(_, report)| report.bios.iter().map(|bio| in_progress(report, bio)))
        .collect();
    requests.sort_by_key(|request| std::cmp::Reverse(request.age_ns));
    let total = u32::try_from(requests.len()).unwrap_or(u32::MAX);
    requests.truncate(most as usize);
    Ok(Inspection { disk: disk.name.clone(), total, requests })
}

fn in_progress(report: &QueueReport, bio: &Overdue) -> RequestInProgress {
    let range = bio.op.range();
    RequestInProgress {
        queue: report.queue.0,
        tag: bio.tag.0,
        op: match bio.op {
            Op::Read(_) => OpName::Read,
            Op::Write(_) => OpName::Write,
            Op::Flush => OpName::Flush,
            Op::Discard(_) => OpName::Discard,
            Op::WriteZeroes { .. } => OpName::WriteZeroes,
        },
        sector: range.map(|range| range.start().0),
        sectors: range.map(crate::block::SectorRange::sectors),
        class: match bio.class {
            Class::RealTime => ClassName::RealTime,
            Class::BestEffort => ClassName::BestEffort,
            Class::Idle => ClassName::Idle,
        },
        stage: match bio.stage {
            Stage::Throttled => shape::Stage::Throttled,
            Stage::Plugged => shape::Stage::Plugged,
            Stage::Staged => shape::Stage::Staged,
            Stage::Leftover => shape::Stage::Leftover,
            Stage::FlushWait => shape::Stage::FlushWait,
            Stage::InFlight => shape::Stage::InFlight,
            Stage::Syncing => shape::Stage::Syncing,
            Stage::Merged => shape::Stage::Merged,
            Stage::Done => shape::Stage::Done,
        },
        age_ns: bio.age,
        merged_into: bio.merged_into.map(|leader| leader.0),
    }
}

fn counters(queues: &[Arc<QueueStats>], buckets: bool) -> Counters {
    let now = clock::now();
    let mut sum = Counters::default();
    let mut line = IoStat::default();
    for stats in queues.iter().map(|queue| queue.snapshot()) {
        line += IoStat::of(&stats, now);
        sum.requeues += stats.requeues;
        sum.stalls += stats.stalls;
        sum.refused += stats.refused;
        sum.failed += stats.failed;
        sum.rejected += stats.rejected;
        sum.flush_bios += stats.flush_bios;
    }
    sum.iostat = iostat(&line);
    for (span, of) in [
        (Span::QueueToComplete, Measure::QueueToComplete),
        (Span::QueueToIssue, Measure::QueueToIssue),
        (Span::IssueToComplete, Measure::IssueToComplete),
    ] {
        for (kind, op) in Kind::ALL.into_iter().zip(OPS) {
            let all = merged(queues.iter().map(|queue| queue.latency(kind, span)));
            sum.histograms.extend(histogram(of, Some(op), all.as_ref(), buckets));
        }
    }
    let turns = merged(queues.iter().map(|queue| queue.batches(Batch::Turn)));
    sum.histograms.extend(histogram(Measure::BatchSize, None, turns.as_ref(), buckets));
    sum
}

/// The names of [`Kind::ALL`].
const OPS: [OpName; 4] = [OpName::Read, OpName::Write, OpName::Discard, OpName::Flush];

fn merged(parts: impl Iterator<Item = Distribution>) -> Option<Distribution> {
    parts.reduce(|mut all, part| {
        all.merge(&part);
        all
    })
}

/// `None` for a histogram that holds nothing.
fn histogram(
    of: Measure,
    op: Option<OpName>,
    all: Option<&Distribution>,
    buckets: bool,
) -> Option<Histogram> {
    let all = all.filter(|all| all.count() > 0)?;
    let at = |per_100_000| all.percentile(per_100_000).unwrap_or_default();
    let filled = || all.buckets().filter(|bucket| bucket.count > 0);
    Some(Histogram {
        of,
        op,
        count: all.count(),
        mean: all.mean().unwrap_or_default(),
        p50: at(50_000),
        p90: at(90_000),
        p99: at(99_000),
        p999: at(99_900),
        max: filled().last().map_or(0, |bucket| bucket.upper),
        buckets: buckets.then(|| filled().map(|bucket| (bucket.upper, bucket.count)).collect()),
    })
}

fn iostat(line: &IoStat) -> Iostat {
    let ms = |of: &OpStats| of.nanos / MS;
    Iostat {
        read_ios: line.reads.ios,
        read_merges: line.reads.merges,
        read_sectors: line.reads.sectors,
        read_ticks: ms(&line.reads),
        write_ios: line.writes.ios,
        write_merges: line.writes.merges,
        write_sectors: line.writes.sectors,
        write_ticks: ms(&line.writes),
        in_flight: line.in_flight,
        io_ticks: line.io_ticks / MS,
        time_in_queue: line.time_in_queue / MS,
        discard_ios: line.discards.ios,
        discard_merges: line.discards.merges,
        discard_sectors: line.discards.sectors,
        discard_ticks: ms(&line.discards),
        flush_ios: line.flushes,
        flush_ticks: line.flush_nanos / MS,
    }
}

fn gauges(of: &Gauges) -> shape::Gauges {
    shape::Gauges {
        free: of.free.into(),
        throttled: of.throttled.into(),
        plugged: of.plugged.into(),
        staged: of.staged.into(),
        leftover: of.leftover.into(),
        flush_wait: of.flush_wait.into(),
        in_flight: of.in_flight.into(),
        syncing: of.syncing.into(),
        merged: of.merged.into(),
        done: of.done.into(),
    }
}

fn plus(a: shape::Gauges, b: shape::Gauges) -> shape::Gauges {
    shape::Gauges {
        free: a.free + b.free,
        throttled: a.throttled + b.throttled,
        plugged: a.plugged + b.plugged,
        staged: a.staged + b.staged,
        leftover: a.leftover + b.leftover,
        flush_wait: a.flush_wait + b.flush_wait,
        in_flight: a.in_flight + b.in_flight,
        syncing: a.syncing + b.syncing,
        merged: a.merged + b.merged,
        done: a.done + b.done,
    }
}
