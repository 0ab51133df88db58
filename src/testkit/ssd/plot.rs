//! The interference experiment as a picture: p99 of each scheduler, and how all reads are spread.
//! Several panels, as the model's and a real disk's, stand one below the other.
//!
//! Plain SVG 1.1 without a script or a style sheet, so that any browser shows it from a file.

use std::fmt::Write;

use super::interference::{Row, millis};

const WIDTH: u32 = 1180;
const HEIGHT: u32 = 420;
/// The plots' frames: left edge, width; and both have top and height.
const BARS: (f64, f64) = (70.0, 580.0);
const CURVES: (f64, f64) = (740.0, 400.0);
const TOP: f64 = 60.0;
const TALL: f64 = 280.0;
/// Latencies shown, as powers of ten of a millisecond.
const DECADES: (i32, i32) = (-2, 3);
/// Told apart also by those who see few colours (Okabe and Ito).
const COLOURS: [&str; 8] =
    ["#d55e00", "#cc79a7", "#e69f00", "#0072b2", "#009e73", "#000000", "#56b4e9", "#999999"];

/// Where a latency lies between the ends of the axis: 0 to 1.
fn place(nanos: u64) -> f64 {
    let (from, to) = (f64::from(DECADES.0), f64::from(DECADES.1));
    ((millis(nanos).log10() - from) / (to - from)).clamp(0.0, 1.0)
}

/// Text as XML has it.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

struct Picture(String);

impl Picture {
    fn add(&mut self, line: std::fmt::Arguments<'_>) {
        self.0.write_fmt(line).expect("a string takes all");
        self.0.push('\n');
    }

    fn text(&mut self, (x, y): (f64, f64), anchor: &str, size: u32, text: &str) {
        let text = escaped(text);
        self.add(format_args!(
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" font-size="{size}">{text}</text>"#
        ));
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.add(format_args!(
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{colour}"/>"#
        ));
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

    fn bars(&mut self, rows: &[Row]) {
        let (left, width) = BARS;
        let bottom = TOP + TALL;
        self.text((left + width / 2.0, TOP - 15.0), "middle", 14, "p99 of a 4 KiB read, ms");
        for (at, label) in Picture::decades() {
            let y = bottom - at * TALL;
            self.line((left, y), (left + width, y), "#dddddd");
            self.text((left - 6.0, y + 4.0), "end", 11, &label);
        }
        let step = width / f64::from(u32::try_from(rows.len()).unwrap_or(1).max(1));
        let mut x = left + step * 0.15;
        for (row, colour) in rows.iter().zip(COLOURS.iter().cycle()) {
            let p99 = row.percentile(990);
            let (tall, wide) = (place(p99) * TALL, step * 0.7);
            let (y, middle) = (bottom - tall, x + wide / 2.0);
            self.add(format_args!(
                r#"<rect x="{x:.1}" y="{y:.1}" width="{wide:.1}" height="{tall:.1}" fill="{colour}"/>"#
            ));
            self.text((middle, y - 5.0), "middle", 12, &format!("{:.2}", millis(p99)));
            let (name, note) = row.name.split_once(" (").unwrap_or((&row.name, ""));
            self.text((middle, bottom + 16.0), "middle", 11, name);
            self.text((middle, bottom + 30.0), "middle", 10, note.trim_end_matches(')'));
            x += step;
        }
        self.line((left, bottom), (left + width, bottom), "#000000");
    }

    fn curves(&mut self, rows: &[Row]) {
        let (left, width) = CURVES;
        let bottom = TOP + TALL;
        self.text(
            (left + width / 2.0, TOP - 15.0),
            "middle",
            14,
            "reads that took at most so long",
        );
        self.text((left + width / 2.0, bottom + 34.0), "middle", 12, "ms");
        for (at, label) in Picture::decades() {
            let x = left + at * width;
            self.line((x, TOP), (x, bottom), "#dddddd");
            self.text((x, bottom + 16.0), "middle", 11, &label);
        }
        for quarter in 0..=4u32 {
            let y = bottom - f64::from(quarter) / 4.0 * TALL;
            self.line((left, y), (left + width, y), "#dddddd");
            self.text((left - 6.0, y + 4.0), "end", 11, &format!("{} %", quarter * 25));
        }
        let mut legend = TOP + 16.0;
        for (row, colour) in rows.iter().zip(COLOURS.iter().cycle()) {
            let mut points = String::new();
            for permille in (0..=1000u16).step_by(5) {
                let x = left + place(row.percentile(permille.into())) * width;
                let y = bottom - f64::from(permille) / 1000.0 * TALL;
                write!(points, "{x:.1},{y:.1} ").expect("a string takes all");
            }
            let points = points.trim_end();
            self.add(format_args!(
                r#"<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>"#
            ));
            self.line((left + 10.0, legend - 4.0), (left + 30.0, legend - 4.0), colour);
            self.text((left + 36.0, legend), "start", 11, &row.name);
            legend += 16.0;
        }
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
    let mut picture = Picture(String::new());
    let tall = HEIGHT * u32::try_from(panels.len()).unwrap_or(1);
    picture.add(format_args!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{tall}" font-family="sans-serif">"#
    ));
    picture.add(format_args!(r#"<rect width="{WIDTH}" height="{tall}" fill="white"/>"#));
    for (panel, down) in panels.iter().zip((0..).step_by(HEIGHT as usize)) {
        picture.add(format_args!(r#"<g transform="translate(0,{down})">"#));
        picture.text((f64::from(WIDTH) / 2.0, 24.0), "middle", 16, panel.title);
        picture.bars(panel.rows);
        picture.curves(panel.rows);
        picture.add(format_args!("</g>"));
    }
    picture.add(format_args!("</svg>"));
    picture.0
}
