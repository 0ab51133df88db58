//! What is printed of the cells.

use vhost_user_blkmq::testkit::measure::table;

use super::scene::{Cell, Figure, Sample, Series, cpu};

/// Who everybody is compared to.
const PEERS: [&str; 3] = ["qsd", "raw", "in QEMU"];

/// Everybody's figures of a cell, and what was wrong with it.
pub(crate) fn cell(cell: &Cell) -> String {
    let (references, others): (Vec<&Series>, Vec<&Series>) =
        cell.series.iter().partition(|series| PEERS.contains(&series.name.as_str()));
    // The first one too, unless it is all that is left.
    let base = others.first().filter(|_| others.len() > 1).copied();
    let references: Vec<&Series> = references.into_iter().chain(base).collect();
    let mut head =
        vec!["", "k IOPS", "MB/s", "p50 us", "p99 us", "p99.9 us", "CPU us/IO", "client"];
    let times: Vec<String> = references.iter().map(|r| format!("x {}", r.name)).collect();
    head.extend(times.iter().map(String::as_str));
    let cpu_times = base.map(|base| format!("CPU x {}", base.name));
    head.extend(cpu_times.as_deref());
    let rows: Vec<Vec<String>> = cell
        .series
        .iter()
        .map(|series| {
            let median = |figure: Figure| series.range(figure).median;
            let places = if median(|s| s.iops) < 100_000.0 { 1 } else { 0 };
            let iops = series.range(|s| s.iops / 1000.0).text(places);
            let bytes = median(|s| s.iops) * cell.load.block as f64;
            let latency = |figure: Figure| format!("{:.1}", median(figure));
            let alone = series.rounds.iter().any(|sample| sample.backend_us.is_none());
            let served = if alone { "-".to_owned() } else { series.range(cpu).text(2) };
            let client = median(|s| s.client_us);
            let client = if client.is_nan() { "-".to_owned() } else { format!("{client:.2}") };
            let mut row = vec![
                series.name.clone(),
                iops,
                format!("{:.0}", bytes / 1e6),
                latency(|s: &Sample| s.p50_us),
                latency(|s: &Sample| s.p99_us),
                latency(|s: &Sample| s.p999_us),
                served,
                client,
            ];
            row.extend(references.iter().map(|reference| {
                if reference.name == series.name {
                    return "-".to_owned();
                }
                series.compared(reference, |s| s.iops, |a, b| a / b).text(2)
            }));
            row.extend(base.map(|base| {
                let comparable = !alone && base.name != series.name;
                let compared = comparable.then(|| series.compared(base, cpu, |a, b| a / b));
                compared.map_or_else(|| "-".to_owned(), |range| range.text(2))
            }));
            row
        })
        .collect();
    let mut text = format!("{}\n{}", cell.title(), table(1, &head, &rows));
    for complaint in cell.complaints() {
        text.push_str(&format!("NOISY: {complaint}\n"));
    }
    text
}

/// What the columns are.
pub(crate) const LEGEND: &str = "Median [least greatest] of the rounds; ratios are of IOPS, round \
    by round. CPU: of the back-end's process, all threads, user and kernel; client: of the client \
    (for raw it is all that there is: it asks and serves).";

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "a bench has the tests but not what runs them")]
mod tests {
    use super::super::bar::testing;
    use super::*;

    #[test]
    fn ratios_are_to_the_peers_and_to_the_first_build() {
        let all = |names: &[&str]| {
            let figures = [40.0, 20.0, 10.0, 5.0];
            let of = |(name, n): (&&str, &f64)| testing::series(name, &[*n, *n * 1.1, *n]);
            cell(&testing::cell(names.iter().zip(&figures).map(of).collect()))
        };
        let text = all(&["base", "tree", "qsd", "raw"]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "null, randread 4K QD32");
        assert!(lines[1].contains("x qsd") && lines[1].contains("x raw"), "{text}");
        assert!(lines[1].contains("  x base  ") && lines[1].ends_with("CPU x base"), "{text}");
        assert!(lines[2].starts_with("base  40.0 [40.0 44.0]   164 "), "{text}");
        assert!(lines[2].contains("4.00 [4.00 4.00]  8.00 [8.00 8.00]"), "{text}");
        assert!(lines[3].ends_with("0.50 [0.50 0.50]  0.50 [0.50 0.50]"), "{text}");
        assert!(lines[5].ends_with("0.12 [0.12 0.12]                 -"), "{text}");
        // No back-end: nothing in its column, the client's beside it.
        assert!(lines[5].starts_with("raw ") && lines[5].contains(" -    1.00  0.50 "), "{text}");
        let text = all(&["ours", "qsd"]);
        assert!(!text.contains("x ours") && text.contains("x qsd"), "{text}");
        let text = all(&["ours", "in QEMU"]);
        assert!(!text.contains("x ours") && text.contains("x in QEMU"), "{text}");
    }

    #[test]
    fn a_noisy_cell_says_so() {
        let text = cell(&testing::cell(vec![testing::series("ours", &[1.0, 2.0])]));
        assert!(text.ends_with("NOISY: ours's rounds are 67 % apart\n"), "{text}");
    }
}
