//! Words become the configuration: what each disk and pool means, and what they mean together.
//!
//! * N1 A disk that names no pool has one of its own, which bears its name and takes the disk's
//!   settings. Declared pools come first, in the file's order, then the disks' own.
//! * N2 What there can be only one of is said once: names, sockets, the writer of an image, a
//!   serial number chosen by hand.
//! * N3 A pool's threads are at most the queues of its disks together.
//! * N4 A weight means something only beside other disks, under a scheduler that knows weights.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::error::{Fault, Refusal};
use super::word::{DiskWords, Key, Place, PoolWords, Settings, Word, Words, meant, shown};
use super::{
    Config, DEFAULT_POLL_US, DEFAULT_WEIGHT, DiskConfig, MAX_HW_DEPTH, MAX_POLL_US, MAX_QUEUE_SIZE,
    MAX_QUEUES, MAX_WEIGHT, PoolConfig, SchedulerConfig, Socket, throttle, value,
};

/// The configuration that the words mean.
pub(super) fn config(words: Words) -> Result<Config, Refusal> {
    let log_level = value::one_of(words.log_level, &value::LOG_LEVELS)?;
    let admin_socket = words.admin_socket.map(value::socket_path).transpose()?;
    let sandbox = value::one_of(words.sandbox, &value::SANDBOX)?.unwrap_or_default();
    let user = words.user.as_ref().map(value::user).transpose()?;
    let mut pools = Pools::declared(words.pools)?;
    let mut once = Once { admin_socket: admin_socket.clone(), ..Once::default() };
    let mut disks = Vec::new();
    for words in words.disks {
        disks.push(disk(words, &mut pools, &mut once)?);
    }
    Ok(Config { log_level, admin_socket, sandbox, user, pools: pools.finish()?, disks })
}

fn disk(words: DiskWords, pools: &mut Pools, once: &mut Once) -> Result<DiskConfig, Refusal> {
    let place = words.place;
    let (name_key, name) = name(words.name, place, "disk")?;
    let remedy = "give each disk a name of its own";
    once.say(name_key, &name, remedy)?;
    let (image_key, blk_file) = value::image(place, words.blk_file)?;
    let num_queues = value::number(words.num_queues, 1, MAX_QUEUES)?.unwrap_or(MAX_QUEUES);
    let (logical_block, physical_block) =
        value::blocks(words.logical_block_size, words.physical_block_size)?;
    let socket_key = words.socket_path.as_ref().map(|word| word.key);
    let socket_key = socket_key.or_else(|| words.fd.as_ref().map(|word| word.key));
    let socket =
        value::socket(place, words.socket_path, words.fd, words.socket_mode, words.socket_group)?;
    let serial_key = words.serial.as_ref().map(|word| (word.key, word.text.clone()));
    let serial = value::serial(words.serial, &blk_file)?;
    let weight = value::number(words.weight.clone(), 1, MAX_WEIGHT)?;
    let pool = match words.pool {
        Some(pool) => pools.join(&pool, &words.settings)?,
        None => pools.own(&name, name_key.place, words.settings)?,
    };
    if let (Some(weight), Some(word)) = (weight, words.weight) {
        pools.all[pool].weighs(weight, word.key.place)?;
    }
    pools.all[pool].queues += u32::from(num_queues);
    pools.all[pool].disks += 1;
    let disk = DiskConfig {
        name,
        pool,
        socket,
        blk_file,
        read_only: words.read_only,
        share_rw: words.share_rw,
        registered_buffers: words.registered_buffers,
        cache: value::cache(words.cache, words.registered_buffers)?,
        unmap: value::one_of(words.discard, &value::DISCARD)?.unwrap_or(true),
        logical_block,
        physical_block,
        serial,
        num_queues,
        queue_size: value::queue_size(words.queue_size)?,
        weight: weight.unwrap_or(DEFAULT_WEIGHT),
        limits: throttle::limits(words.throttle)?,
        werror: value::one_of(words.werror, &value::WERROR)?.unwrap_or_default(),
        rerror: value::one_of(words.rerror, &value::RERROR)?.unwrap_or_default(),
        nr_requests: value::number(words.nr_requests, 1, MAX_QUEUE_SIZE)?,
    };
    if let Some(key) = socket_key {
        once.socket(key, &disk.socket)?;
    }
    once.image(image_key, &disk)?;
    if let Some((key, text)) = serial_key {
        once.say(key, &text, "give each disk a serial number of its own")?;
    }
    Ok(disk)
}

/// The name that every disk and pool of a file has.
fn name(word: Option<Word>, place: Place, of: &'static str) -> Result<(Key, String), Refusal> {
    let word = word.ok_or_else(|| place.refuse(Fault::NoName(of)))?;
    Ok((word.key, value::name(word)?))
}

/// What has been said that can be said only once (N2).
#[derive(Default)]
struct Once {
    /// By key and value: the line.
    said: BTreeMap<(&'static str, String), usize>,
    /// By image: the line, and whether all its disks only read or share it so far.
    images: BTreeMap<String, (usize, ImageUse)>,
    admin_socket: Option<PathBuf>,
}

/// What the disks of one image do with it.
#[derive(Clone, Copy)]
struct ImageUse {
    writes: bool,
    all_share: bool,
}

impl Once {
    fn say(&mut self, key: Key, text: &str, remedy: &'static str) -> Result<(), Refusal> {
        match self.said.insert((key.name, text.to_owned()), key.place.line()) {
            Some(line) => {
                let value = shown(text);
                Err(key.place.refuse(Fault::Twice { key, value, line, remedy }))
            }
            None => Ok(()),
        }
    }

    fn socket(&mut self, key: Key, socket: &Socket) -> Result<(), Refusal> {
        let text = match socket {
            Socket::Path { path, .. } => path.display().to_string(),
            Socket::Fd(fd) => fd.to_string(),
        };
        if matches!(socket, Socket::Path { path, .. } if Some(path) == self.admin_socket.as_ref()) {
            return Err(key.place.refuse(Fault::AdminSocket { key, path: shown(&text) }));
        }
        self.say(key, &text, "give each disk a socket of its own")
    }

    /// The same path may be served several times when nobody writes, or when all share.
    fn image(&mut self, key: Key, disk: &DiskConfig) -> Result<(), Refusal> {
        if disk.blk_file.starts_with("null:") {
            return Ok(());
        }
        let this = ImageUse { writes: !disk.read_only, all_share: disk.share_rw };
        let Some((line, so_far)) = self.images.get_mut(&disk.blk_file) else {
            self.images.insert(disk.blk_file.clone(), (key.place.line(), this));
            return Ok(());
        };
        so_far.writes |= this.writes;
        so_far.all_share &= this.all_share;
        if so_far.writes && !so_far.all_share {
            let (value, line) = (shown(&disk.blk_file), *line);
            let remedy = "give each disk its own image, or say read-only (or share-rw) in all of \
                          the disks that have it";
            return Err(key.place.refuse(Fault::Twice { key, value, line, remedy }));
        }
        Ok(())
    }
}

/// A pool in the making: its threads are known when its disks are.
struct Pool {
    place: Place,
    threads: Option<Word>,
    cpus: Option<Word>,
    config: PoolConfig,
    declared: bool,
    disks: usize,
    queues: u32,
}

impl Pool {
    fn new(
        name: String,
        place: Place,
        declared: bool,
        settings: Settings,
    ) -> Result<Pool, Refusal> {
        let nomerges = value::one_of(settings.nomerges, &value::NOMERGES)?;
        let config = PoolConfig {
            name,
            threads: 1,
            cpus: Vec::new(),
            scheduler: value::scheduler(settings.scheduler)?,
            hw_depth: value::number(settings.hw_depth, 0, MAX_HW_DEPTH)?,
            poll_max_us: value::number(settings.poll_max_us, 0, MAX_POLL_US)?
                .unwrap_or(DEFAULT_POLL_US),
            nomerges: nomerges.unwrap_or_default(),
            rotational: value::one_of(settings.rotational, &value::SWITCH)?,
        };
        let (threads, cpus) = (settings.threads, settings.cpus);
        Ok(Pool { place, threads, cpus, config, declared, disks: 0, queues: 0 })
    }

    /// N4.
    fn weighs(&self, weight: u16, place: Place) -> Result<(), Refusal> {
        let PoolConfig { name, scheduler: SchedulerConfig { name: scheduler, .. }, .. } =
            &self.config;
        if !self.declared {
            return Err(place.refuse(Fault::WeightAlone(weight)));
        }
        if scheduler != "bfq" {
            let (pool, scheduler) = (name.clone(), scheduler.clone());
            return Err(place.refuse(Fault::WeightIgnored { weight, pool, scheduler }));
        }
        Ok(())
    }
}

/// All pools, and where each name is.
#[derive(Default)]
struct Pools {
    all: Vec<Pool>,
    by_name: BTreeMap<String, usize>,
}

impl Pools {
    fn declared(words: Vec<PoolWords>) -> Result<Pools, Refusal> {
        let mut pools = Pools::default();
        for PoolWords { place, name: word, settings } in words {
            let (key, name) = name(word, place, "pool")?;
            if let Some(first) = pools.by_name.insert(name.clone(), pools.all.len()) {
                let line = pools.all[first].place.line();
                let remedy = "give each pool a name of its own";
                return Err(key.place.refuse(Fault::Twice { key, value: name, line, remedy }));
            }
            pools.all.push(Pool::new(name, key.place, true, settings)?);
        }
        Ok(pools)
    }

    /// The number of a pool that was declared, for a disk that says nothing a pool says.
    fn join(&self, word: &Word, settings: &Settings) -> Result<usize, Refusal> {
        let known = |index: &&usize| self.all[**index].declared;
        let Some(index) = self.by_name.get(&word.text).filter(known) else {
            let names = self.all.iter().filter(|pool| pool.declared);
            let names = names.map(|pool| pool.config.name.as_str());
            let pool = shown(&word.text);
            let hint = match meant(&word.text, names) {
                Some(name) => format!("did you mean {name}?"),
                None => "declare it in a [[pool]], or leave pool out".to_owned(),
            };
            return Err(word.key.place.refuse(Fault::UnknownPool { pool, hint }));
        };
        match settings.first() {
            Some(key) => {
                let pool = word.text.clone();
                Err(key.place.refuse(Fault::PoolSays { key, pool }))
            }
            None => Ok(*index),
        }
    }

    /// The number of a new pool for one disk (N1).
    fn own(&mut self, name: &str, place: Place, settings: Settings) -> Result<usize, Refusal> {
        let index = self.all.len();
        if let Some(other) = self.by_name.insert(name.to_owned(), index) {
            let line = self.all[other].place.line();
            return Err(place.refuse(Fault::OwnPool { name: name.to_owned(), line }));
        }
        self.all.push(Pool::new(name.to_owned(), place, false, settings)?);
        Ok(index)
    }

    /// All of them, with their threads (N3).
    fn finish(self) -> Result<Vec<PoolConfig>, Refusal> {
        let mut done = Vec::new();
        for pool in self.all {
            let Pool { place, threads, cpus, mut config, declared, disks, queues } = pool;
            if disks == 0 {
                return Err(place.refuse(Fault::EmptyPool(config.name)));
            }
            (config.threads, config.cpus) = value::threads(threads, cpus, queues, declared)?;
            done.push(config);
        }
        Ok(done)
    }
}
