//! The cells as a picture: a bar for everyone's IOPS, with the rounds' ends as a thin line.

use vhost_user_blkmq::testkit::picture::{COLOURS, Picture};

use super::scene::{Cell, Series, cpu};

const WIDTH: u32 = 960;
/// The longest bar; names are left of it, figures right.
const BARS: (f64, f64) = (110.0, 500.0);
const TITLE: f64 = 44.0;
const ROW: f64 = 18.0;
/// What a cell takes beside its rows.
const GAP: f64 = 34.0;

/// What is written beside a bar.
fn figures(series: &Series) -> String {
    let median = |figure: fn(&super::scene::Sample) -> f64| series.range(figure).median;
    let mut text = format!(
        "{:.0} k IOPS, p50 {:.1} us, p99 {:.0} us",
        median(|s| s.iops / 1000.0),
        median(|s| s.p50_us),
        median(|s| s.p99_us)
    );
    let (who, cpu) = (if series.raw { "client" } else { "CPU" }, median(cpu));
    if !cpu.is_nan() {
        text.push_str(&format!(", {who} {cpu:.2} us/IO"));
    }
    text
}

/// The picture. Bars of one cell are to one scale: the fastest one is as long as it can be.
pub(crate) fn svg(cells: &[Cell], title: &str) -> String {
    // In whole pixels, so that no float has to become an integer.
    let rows: u32 = cells.iter().flat_map(|c| &c.series).map(|_| 18).sum();
    let gaps: u32 = cells.iter().map(|_| 34).sum();
    let mut picture = Picture::new(WIDTH, 60 + rows + gaps);
    picture.text((f64::from(WIDTH) / 2.0, 24.0), "middle", 16, title);
    // Everyone keeps his colour in all cells.
    let mut names: Vec<&str> = Vec::new();
    for series in cells.iter().flat_map(|cell| &cell.series) {
        if !names.contains(&series.name.as_str()) {
            names.push(&series.name);
        }
    }
    let mut y = TITLE;
    for cell in cells {
        let noisy = if cell.complaints().is_empty() { "" } else { " (noisy)" };
        y += GAP;
        picture.text((BARS.0, y - 8.0), "start", 13, &format!("{}{noisy}", cell.title()));
        let ranges = cell.series.iter().map(|s| s.range(|sample| sample.iops));
        let most = ranges.clone().map(|r| r.max).fold(f64::MIN_POSITIVE, f64::max);
        for (series, range) in cell.series.iter().zip(ranges) {
            let place = names.iter().position(|name| *name == series.name).unwrap_or(0);
            let colour = COLOURS[place % COLOURS.len()];
            let at = |iops: f64| BARS.0 + iops / most * BARS.1;
            let (middle, long) = (y + ROW / 2.0, at(range.median) - BARS.0);
            picture.bar((BARS.0, y + 2.0), (long, ROW - 4.0), colour);
            picture.line((at(range.min), middle), (at(range.max), middle), "#888888");
            picture.text((BARS.0 - 6.0, middle + 4.0), "end", 11, &series.name);
            picture.text((at(range.max) + 6.0, middle + 4.0), "start", 11, &figures(series));
            y += ROW;
        }
    }
    picture.finish()
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "a bench has the tests but not what runs them")]
mod tests {
    use super::super::bar::testing::{cell, series};
    use super::*;

    #[test]
    fn everyone_has_a_bar_to_scale_and_keeps_his_colour() {
        let cells = [
            cell(vec![series("ours", &[100.0, 100.0, 100.0]), series("raw", &[50.0, 50.0, 50.0])]),
            cell(vec![series("raw", &[10.0, 10.0, 10.0])]),
        ];
        let text = svg(&cells, "one & two");
        assert!(text.contains("one &amp; two"));
        let bars: Vec<&str> = text.lines().filter(|l| l.contains(r#"height="14.0""#)).collect();
        let shown: Vec<(bool, bool)> = [(500, 0), (250, 1), (500, 1)]
            .iter()
            .zip(&bars)
            .map(|((long, colour), bar)| {
                let long = bar.contains(&format!(r#"width="{long}.0""#));
                (long, bar.contains(COLOURS[*colour]))
            })
            .collect();
        assert_eq!(shown, [(true, true); 3], "{bars:?}");
        assert!(text.contains(">100 k IOPS, p50 100.0 us, p99 100 us, CPU 100.00 us/IO<"));
        assert!(text.contains("client 1.00 us/IO<"), "{text}");
        assert!(text.contains(r#"height="182""#), "{text}");
    }

    #[test]
    fn nothing_is_an_empty_picture() {
        assert_eq!(svg(&[], "none").matches("<rect").count(), 1);
    }
}
