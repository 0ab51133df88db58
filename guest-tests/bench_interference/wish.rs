//! What the command line asks for.

use std::path::PathBuf;

/// What `--help` prints.
pub(crate) const HELP: &str = "\
Usage: ci/bench-interference [OPTION...]
  --real=PATH        measure for real too: a directory, where an image is made that is gone
                     afterwards, or with --overwrite an existing image or block device
  --overwrite        its content may be lost
  --size=MIB         the image's size (1024)
  --rounds=N         rounds in which all cases take turns (7)
  --seconds=N        seconds of a turn (2)
  --out=N            writes that each of the 16 writers has out at a time (64)
  --hw-depth=N       requests with the disk at a time, instead of each scheduler's own; for all that
                     have a bound
  --model-seconds=N  virtual seconds of the simulation (120)
  --seed=N           of content and addresses (1)
  --svg=PATH         write the picture; - prints it instead of the tables
  --json=PATH        write the figures; - prints them instead of the tables
A value may also be the next argument. Relative paths begin at the top of the repository.
";

/// See [`HELP`].
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) real: Option<PathBuf>,
    pub(crate) overwrite: bool,
    /// In bytes.
    pub(crate) size: u64,
    pub(crate) rounds: u64,
    pub(crate) seconds: u64,
    pub(crate) out: u64,
    pub(crate) hw_depth: Option<u64>,
    pub(crate) model_seconds: u64,
    pub(crate) seed: u64,
    pub(crate) svg: Option<String>,
    pub(crate) json: Option<String>,
}

impl Default for Wish {
    fn default() -> Wish {
        Wish {
            real: None,
            overwrite: false,
            size: 1 << 30,
            rounds: 7,
            seconds: 2,
            out: 64,
            hw_depth: None,
            model_seconds: 120,
            seed: 1,
            svg: None,
            json: None,
        }
    }
}

/// Reads the arguments; `None` asks for help.
pub(crate) fn wish(args: impl Iterator<Item = String>) -> Result<Option<Wish>, String> {
    let mut wish = Wish::default();
    let mut args = args;
    while let Some(arg) = args.next() {
        let (name, inline) = match arg.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (arg.as_str(), None),
        };
        if matches!(name, "--overwrite" | "--help") && inline.is_some() {
            return Err(format!("{name} takes no value"));
        }
        let mut text = || {
            let value = inline.clone().or_else(|| args.next()).filter(|value| !value.is_empty());
            value.ok_or_else(|| format!("{name} takes a value: see --help"))
        };
        let mut number = |most: u64| {
            let value = text()?.parse().ok().filter(|n| (1..=most).contains(n));
            value.ok_or_else(|| format!("{name} takes a number from 1 to {most}"))
        };
        match name {
            "--help" => return Ok(None),
            "--overwrite" => wish.overwrite = true,
            "--real" => wish.real = Some(text()?.into()),
            "--svg" => wish.svg = Some(text()?),
            "--json" => wish.json = Some(text()?),
            "--size" => wish.size = number(1 << 24)? << 20,
            "--rounds" => wish.rounds = number(1000)?,
            "--seconds" => wish.seconds = number(3600)?,
            "--out" => wish.out = number(512)?,
            "--hw-depth" => wish.hw_depth = Some(number(65536)?),
            "--model-seconds" => wish.model_seconds = number(3600)?,
            "--seed" => wish.seed = number(u64::MAX)?,
            _ => return Err(format!("{arg} means nothing here: see --help")),
        }
    }
    if wish.svg.is_some() && wish.svg.as_deref() == wish.json.as_deref() {
        return Err("--svg and --json go to the same place: give them two".to_owned());
    }
    // Half of the image is the writers', and each write has its own place in it.
    let least = 2 * WRITERS * wish.out * WRITE;
    if wish.size < least {
        let least = least.div_ceil(1 << 20);
        return Err(format!("--out={} needs --size={least} or more", wish.out));
    }
    Ok(Some(wish))
}

/// Writers, each with `out` writes.
pub(crate) const WRITERS: u64 = 16;
/// Bytes of a write.
const WRITE: u64 = super::common::beside::WRITE as u64;
