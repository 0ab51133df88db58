//! The experiment on a real image: its cases, where the image lies, and what is told of it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use vhost_user_blkmq::blkmq::sched::Kind;
use vhost_user_blkmq::testkit::beside::{Series, conclusion, figures, table};
use vhost_user_blkmq::testkit::measure::take_turns;
use vhost_user_blkmq::testkit::ssd::interference::Row;

use super::common::beside::{Bed, Case, Plan};
use super::wish::{WRITERS, Wish};

/// Time after a switch before anything counts.
const WARM_UP: Duration = Duration::from_millis(500);

/// What came of it.
pub(crate) struct Measured {
    /// For the picture.
    pub(crate) rows: Vec<Row>,
    /// For JSON.
    pub(crate) report: Value,
}

/// The cases: `none` first, to which the others are compared, and the reader alone at the end.
fn cases(hw_depth: Option<u32>) -> Vec<Case> {
    let mut all: Vec<Case> = Kind::ALL.map(Case::new).into();
    for case in &mut all {
        if case.hw_depth > 0 {
            case.hw_depth = hw_depth.unwrap_or(case.hw_depth);
        }
    }
    // What the bound does without a scheduler: as deep as bfq, first come, first served.
    let bfq = all.iter().find(|case| case.kind == Kind::Bfq).expect("one of all").clone();
    let hw_depth = bfq.hw_depth;
    all.insert(1, Case { name: format!("none ({hw_depth} deep)"), hw_depth, ..all[0].clone() });
    let name = "bfq (900 to 100)".to_owned();
    all.push(Case { name, weights: (900, 100), ..bfq.clone() });
    // Without what keeps the writers' share of the device small while the reader is about.
    let name = "bfq (no window)".to_owned();
    all.push(Case { name, tunable: Some(("window_hold", 0)), ..bfq });
    all.push(Case { name: "reader alone".to_owned(), writers: false, ..all[0].clone() });
    all
}

/// What the kernel has below the image: device, scheduler, whether it says that it seeks.
fn below(device: u64) -> Value {
    let (major, minor) = (libc::major(device), libc::minor(device));
    let dir = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    // A partition has its disk's.
    let queue = [dir.join("queue"), dir.join("../queue")].into_iter().find(|queue| queue.is_dir());
    let Some(queue) = queue else { return Value::Null };
    let read = |name: &str| std::fs::read_to_string(queue.join(name)).unwrap_or_default();
    let schedulers = read("scheduler");
    let chosen = schedulers.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    json!({
        "scheduler": chosen.map_or("unknown", |(name, _)| name),
        "nr_requests": read("nr_requests").trim(),
        "rotational": read("rotational").trim() == "1",
    })
}

/// An image that is open, its path while somebody has to open it, and the device that it lies on.
struct Image {
    file: File,
    path: PathBuf,
    device: u64,
    /// Ours, to be removed.
    made: Option<tempfile::TempPath>,
}

fn image(path: &Path, wish: &Wish) -> Result<Image, String> {
    let at = |error: std::io::Error| format!("{}: {error}", path.display());
    let meta = path.metadata().map_err(at)?;
    if meta.is_dir() {
        let made = tempfile::Builder::new().prefix("blkmq-").suffix(".img").tempfile_in(path);
        let (file, made) = made.map_err(at)?.into_parts();
        file.set_len(wish.size).map_err(at)?;
        return Ok(Image { file, path: made.to_path_buf(), device: meta.dev(), made: Some(made) });
    }
    if !wish.overwrite {
        return Err(format!(
            "{}: it would be overwritten: give --overwrite too, or a directory to make an image in",
            path.display()
        ));
    }
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(at)?;
    let is_device = meta.file_type().is_block_device();
    let device = if is_device { meta.rdev() } else { meta.dev() };
    let end = std::io::Seek::seek(&mut &file, std::io::SeekFrom::End(0)).map_err(at)?;
    if end < wish.size {
        let mib = wish.size >> 20;
        return Err(format!("{}: smaller than {mib} MiB: give another --size", path.display()));
    }
    Ok(Image { file, path: path.to_owned(), device, made: None })
}

/// Runs all rounds on an image at `path`.
pub(crate) fn measure(
    path: &Path,
    wish: &Wish,
    tell: &dyn Fn(&str) -> Result<(), String>,
) -> Result<Measured, String> {
    let Image { file, path: image, device, made } = image(path, wish)?;
    let plan = Plan {
        size: wish.size,
        out: usize::try_from(WRITERS * wish.out).expect("small"),
        warm_up: WARM_UP,
        window: Duration::from_secs(wish.seconds),
        seed: wish.seed,
    };
    let below = below(device);
    let mib = wish.size >> 20;
    let kernel = match below["scheduler"].as_str() {
        Some(scheduler) => format!("; the kernel schedules below: {scheduler}"),
        None => "; no block device below".to_owned(),
    };
    tell(&format!(
        "For real, as measured: {WRITERS} x {} writes out; {mib} MiB in {}{kernel}\n\
         median [quartiles] of {} rounds of {} s\n",
        wish.out,
        path.display(),
        wish.rounds,
        wish.seconds
    ))?;
    let mut bed = Bed::start(&image, file, plan)?;
    // The daemon has it open, and so have we: nothing is left behind, however this ends.
    drop(made);
    let depth = wish.hw_depth.map(|n| u32::try_from(n).expect("at most 65536"));
    let cases = cases(depth);
    let rounds = usize::try_from(wish.rounds).expect("few");
    let mut failed = None;
    let turns = take_turns(cases.len(), rounds, |n| {
        if failed.is_some() {
            return None;
        }
        bed.turn(&cases[n]).map_err(|why| failed = Some(why)).ok()
    });
    if let Some(why) = failed {
        return Err(why);
    }
    let over = bed.finish()?;
    let series: Vec<Series> = cases
        .iter()
        .zip(turns)
        .map(|(Case { name, hw_depth, .. }, turns)| {
            let turns = turns.into_iter().flatten().collect();
            Series { name: name.clone(), hw_depth: *hw_depth, turns }
        })
        .collect();
    let figures = figures(&series, 0);
    let said = conclusion(&figures, 0, cases.len() - 1);
    let blocks = "blocks were written over; every byte of the image is right";
    tell(&format!("{}\n{said}\n{over} {blocks}", table(&figures)))?;
    let report = json!({
        "size": wish.size,
        "out": plan.out,
        "rounds": wish.rounds,
        "seconds": wish.seconds,
        "seed": wish.seed,
        "below": below,
        "figures": figures,
        "conclusion": said,
    });
    Ok(Measured { rows: series.iter().map(Series::row).collect(), report })
}
