use super::*;

const MS: u64 = 1_000_000;

/// A case whose turns of a second have 100 reads each: 98 of a tenth, one of half, and one of the
/// whole of these milliseconds. 64 MB are written in each.
fn series(name: &str, millis: &[u64]) -> Series {
    let turn = |ms: &u64| {
        let mut latencies = vec![ms * MS / 10; 98];
        latencies.extend([ms * MS, ms * MS / 2]);
        Turn::new(latencies, 64_000_000, 1000 * MS).expect("reads")
    };
    Series { name: name.to_owned(), hw_depth: 0, turns: millis.iter().map(turn).collect() }
}

fn of(cases: &[Series]) -> (Vec<Figure>, String) {
    let figures = figures(cases, 0);
    let said = conclusion(&figures, 0, cases.len() - 1);
    (figures, said)
}

#[test]
fn a_turn_has_rates_and_percentiles_by_nearest_rank() {
    let turn = Turn::new((1..=200).rev().map(|n| n * MS).collect(), 3_000_000, 500 * MS);
    let turn = turn.expect("reads");
    assert_eq!((turn.iops(), turn.write_rate()), (400.0, 6.0));
    assert_eq!([0, 500, 990, 999, 1000].map(|p| turn.millis(p)), [1.0, 100.0, 198.0, 200.0, 200.0]);
    for (latencies, nanos) in [(vec![], 1), (vec![1], 0)] {
        assert!(Turn::new(latencies, 0, nanos).is_err_and(|e| e.contains("more seconds")));
    }
}

#[test]
fn r1_a_slow_moment_spoils_one_turn_and_not_the_case() {
    let (figures, _) = of(&[series("none", &[10, 10, 9000, 10, 10]), series("alone", &[1; 5])]);
    let none = &figures[0];
    assert_eq!((none.p50_ms.median, none.p99_ms.median, none.max_ms.median), (1.0, 5.0, 10.0));
    assert_eq!((none.reads, none.iops.median, none.write_mb_s.median), (500, 100.0, 64.0));
    assert_eq!((none.p99_times, none.effect), (None, None), "the base is not compared");
    assert_eq!(series("x", &[1, 9000]).row().percentile(1000), 9000 * MS, "the picture has all");
}

#[test]
fn r2_three_quarters_of_the_rounds_have_to_agree() {
    let base = series("none", &[100, 100, 100, 1000, 100]);
    let alone = series("alone", &[1; 5]);
    for (millis, want, times) in [
        // The fourth round was slow for all: by medians alone this would look the same.
        ([50, 50, 50, 500, 50], Effect::Better, 0.5),
        ([50, 50, 50, 9000, 50], Effect::Better, 0.5),
        ([50, 50, 200, 5000, 50], Effect::Unclear, 0.5),
        ([100, 100, 100, 1000, 100], Effect::Unclear, 1.0),
        ([200, 200, 200, 100, 200], Effect::Worse, 2.0),
    ] {
        let (figures, said) = of(&[base.clone(), series("it", &millis), alone.clone()]);
        let p99_times = figures[1].p99_times.expect("compared").median;
        assert_eq!((figures[1].effect, p99_times), (Some(want), times), "{millis:?}");
        assert!(said.contains(&format!("compared with it {want}: it; ")), "{said}");
        assert!(said.ends_with("below 0.50 ms (the reader alone) a p99 is noise"), "{said}");
        assert!(
            said.contains("under none the writers make the reader's p99 100.0 times"),
            "{said}"
        );
    }
}

#[test]
fn r3_an_unsteady_machine_and_a_disk_without_interference_prove_nothing() {
    let [none, kyber] = [series("none", &[100; 4]), series("kyber", &[1; 4])];
    let noisy = series("alone", &[1, 1, 4, 4]);
    let (_, said) = of(&[none, kyber.clone(), noisy]);
    assert!(said.contains("too noisy") && !said.contains("better"), "{said}");
    assert!(said.contains("p50 of 0.10 to 0.40 ms and a p99 of 0.50 to 2.00 ms"), "{said}");
    // Steady mostly, and yet as slow at times as beside the writers.
    let [none, mut alone] = [series("none", &[20; 5]), series("alone", &[1; 5])];
    for turn in &mut alone.turns[3..] {
        turn.latencies[98] = 11 * MS;
        turn.latencies[99] = 12 * MS;
    }
    let (_, said) = of(&[none, alone]);
    assert!(said.contains("too noisy") && said.contains("0.50 to 11.00 ms"), "{said}");
    let (_, said) = of(&[series("none", &[19; 4]), kyber, series("alone", &[10; 4])]);
    assert!(said.contains("no interference") && said.contains("1.9 times"), "{said}");
}

#[test]
fn the_table_has_a_line_for_each_case() {
    let bounded = Series { hw_depth: 32, ..series("bfq, 900 to 100", &[2; 3]) };
    let (figures, _) = of(&[series("none", &[10; 3]), bounded]);
    let text = table(&figures);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].starts_with("scheduler") && lines[0].ends_with("effect"), "{text}");
    assert!(lines[1].ends_with('-') && lines[1].contains("5.00 [5.00 5.00]"), "{text}");
    assert!(lines[2].starts_with("bfq, 900 to 100") && lines[2].contains(" 32 "), "{text}");
    assert!(lines[2].contains("0.20 [0.20 0.20]") && lines[2].ends_with("better"), "{text}");
    let json = serde_json::to_value(&figures[1]).expect("plain data");
    assert_eq!((&json["effect"], &json["hw_depth"]), (&"better".into(), &32.into()));
    assert_eq!(json["p99_ms"]["median"], 1.0);
}
