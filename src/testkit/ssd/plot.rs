//! The interference experiment as a picture: p99 of each scheduler, and how all reads are spread.
//! Several panels, as the model's and a real disk's, stand one below the other.

use super::interference::{Row, millis};
use crate::testkit::picture::{COLOURS, Picture};

const WIDTH: u32 = 1180;
const HEIGHT: u32 = 420;
/// The plots' frames: left edge, width; and both have top and height.
const BARS: (f64, f64) = (70.0, 580.0);
const CURVES: (f64, f64) = (740.0, 400.0);
const TOP: f64 = 60.0;
const TALL: f64 = 280.0;
/// Latencies shown, as powers of ten of a millisecond.
const DECADES: (i32, i32) = (-2, 3);

/// Where a latency lies between the ends of the axis: 0 to 1.
fn place(nanos: u64) -> f64 {
    let (from, to) = (f64::from(DECADES.0), f64::from(DECADES.1));
    ((millis(nanos).log10() - from) / (to - from)).clamp(0.0, 1.0)
}

/// The decades of the axis: where, and what is written there.
fn decades() -> impl Iterator<Item = (f64, String)> {
    let span = f64::from(DECADES.1 - DECADES.0);
    (DECADES.0..=DECADES.1).map(move |decade| {
        let places = usize::try_from(-decade).unwrap_or(0);
        let value = 10f64.powi(decade);
        (f64::from(decade - DECADES.0) / span, format!("{value:.places$}"))
    })
}

fn bars(picture: &mut Picture, rows: &[Row]) {
    let (left, width) = BARS;
    let bottom = TOP + TALL;
    picture.text((left + width / 2.0, TOP - 15.0), "middle", 14, "p99 of a 4 KiB read, ms");
    for (at, label) in decades() {
        let y = bottom - at * TALL;
        picture.line((left, y), (left + width, y), "#dddddd");
        picture.text((left - 6.0, y + 4.0), "end", 11, &label);
    }
    let step = width / f64::from(u32::try_from(rows.len()).unwrap_or(1).max(1));
    let mut x = left + step * 0.15;
    for (row, colour) in rows.iter().zip(COLOURS.iter().cycle()) {
        let p99 = row.percentile(990);
        let (tall, wide) = (place(p99) * TALL, step * 0.7);
        let (y, middle) = (bottom - tall, x + wide / 2.0);
        picture.bar((x, y), (wide, tall), colour);
        picture.text((middle, y - 5.0), "middle", 12, &format!("{:.2}", millis(p99)));
        let (name, note) = row.name.split_once(" (").unwrap_or((&row.name, ""));
        picture.text((middle, bottom + 16.0), "middle", 11, name);
        picture.text((middle, bottom + 30.0), "middle", 10, note.trim_end_matches(')'));
        x += step;
    }
    picture.line((left, bottom), (left + width, bottom), "#000000");
}

fn curves(picture: &mut Picture, rows: &[Row]) {
    let (left, width) = CURVES;
    let bottom = TOP + TALL;
    picture.text((left + width / 2.0, TOP - 15.0), "middle", 14, "reads that took at most so long");
    picture.text((left + width / 2.0, bottom + 34.0), "middle", 12, "ms");
    for (at, label) in decades() {
        let x = left + at * width;
        picture.line((x, TOP), (x, bottom), "#dddddd");
        picture.text((x, bottom + 16.0), "middle", 11, &label);
    }
    for quarter in 0..=4u32 {
        let y = bottom - f64::from(quarter) / 4.0 * TALL;
        picture.line((left, y), (left + width, y), "#dddddd");
        picture.text((left - 6.0, y + 4.0), "end", 11, &format!("{} %", quarter * 25));
    }
    let mut legend = TOP + 16.0;
    for (row, colour) in rows.iter().zip(COLOURS.iter().cycle()) {
        let points = (0..=1000u16).step_by(5).map(|permille| {
            let x = left + place(row.percentile(permille.into())) * width;
            (x, bottom - f64::from(permille) / 1000.0 * TALL)
        });
        picture.curve(points, colour);
        picture.line((left + 10.0, legend - 4.0), (left + 30.0, legend - 4.0), colour);
        picture.text((left + 36.0, legend), "start", 11, &row.name);
        legend += 16.0;
    }
}

/// A part of the picture: one experiment.
#[derive(Clone, Copy, Debug)]
pub struct Panel<'a> {
    /// What stands above it.
    pub title: &'a str,
    /// What it shows; each has at least one read.
    pub rows: &'a [Row],
}

/// The picture: the panels from top to bottom. A row without reads cannot be shown.
///
/// # Panics
/// When there is such a row.
#[must_use]
pub fn svg(panels: &[Panel<'_>]) -> String {
    let mut picture = Picture::new(WIDTH, HEIGHT * u32::try_from(panels.len()).unwrap_or(1));
    for (panel, down) in panels.iter().zip((0..).step_by(HEIGHT as usize)) {
        picture.down(down, |picture| {
            picture.text((f64::from(WIDTH) / 2.0, 24.0), "middle", 16, panel.title);
            bars(picture, panel.rows);
            curves(picture, panel.rows);
        });
    }
    picture.finish()
}
