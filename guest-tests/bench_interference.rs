//! `cargo bench --bench interference [-- [--seconds N] [--seed N] [picture.svg]]`: a reader beside
//! 16 writers on a simulated flash disk, under each scheduler. Prints tables, and writes the picture
//! if a path is given. Time is virtual: the figures are the same on every machine.

use std::io::{Result, Write, stdout};

use vhost_user_blkmq::testkit::ssd::interference::{Row, Setup, run, table};
use vhost_user_blkmq::testkit::ssd::plot::svg;

struct Wish {
    seconds: u64,
    seed: u64,
    picture: Option<String>,
}

fn wish() -> Wish {
    let mut wish = Wish { seconds: 120, seed: 1, picture: None };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || {
            let value = args.next().and_then(|value| value.parse().ok());
            value.filter(|n| *n > 0).unwrap_or_else(|| panic!("{arg} takes a number above 0"))
        };
        match arg.as_str() {
            "--bench" => {} // what cargo adds
            "--seconds" => wish.seconds = number(),
            "--seed" => wish.seed = number(),
            path => wish.picture = Some(path.to_owned()),
        }
    }
    wish
}

fn main() -> Result<()> {
    let Wish { seconds, seed, picture } = wish();
    let mut out = stdout().lock();
    let title = "A 4 KiB reader beside 16 writers of 64 KiB";
    writeln!(out, "{title}, 64 outstanding each; {seconds} s, seed {seed}")?;
    let deep = Setup::all(seconds, seed);
    let rows: Vec<Row> = deep.iter().map(run).collect();
    writeln!(out, "{}", table(&rows))?;
    writeln!(out, "The same with one outstanding each")?;
    let shallow = deep.iter().map(|setup| Setup { depth: 1, ..*setup });
    let shallow: Vec<Row> = shallow.map(|setup| run(&setup)).collect();
    writeln!(out, "{}", table(&shallow))?;
    writeln!(out, "The reader by itself")?;
    let alone = deep.iter().map(|setup| Setup { writers: 0, seconds: 1, ..*setup });
    let alone: Vec<Row> = alone.map(|setup| run(&setup)).collect();
    writeln!(out, "{}", table(&alone))?;
    if let Some(path) = picture {
        std::fs::write(&path, svg(&rows, &format!("{title} (simulated disk)")))?;
        writeln!(out, "{path} is written")?;
    }
    Ok(())
}
