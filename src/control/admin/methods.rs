//! The methods: name, parameters, what is asked of [`Steer`], result.
//!
//! Ranges that belong to the protocol are checked here; whether a value suits this disk or this
//! scheduler is for [`Steer`] to say.

use std::io::{self, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::rpc::{Fault, MAX_ANSWER};
use super::steer::Steer;
use super::{PROTOCOL, params, shape};

/// A result as JSON text.
type Answer = Result<Vec<u8>, Fault>;

type Method = fn(&dyn Steer, Value) -> Answer;

/// Every method by name.
const METHODS: &[(&str, Method)] = &[
    ("version", version),
    ("disk.list", disk_list),
    ("disk.stats", disk_stats),
    ("disk.inspect", disk_inspect),
    ("disk.set-limits", disk_set_limits),
    ("disk.set-weight", disk_set_weight),
    ("disk.set-nr-requests", disk_set_nr_requests),
    ("disk.resize", disk_resize),
    ("pool.list", pool_list),
    ("pool.get-scheduler", pool_get_scheduler),
    ("pool.set-scheduler", pool_set_scheduler),
    ("pool.tunable", pool_tunable),
    ("pool.set-hw-depth", pool_set_hw_depth),
    ("pool.set-nomerges", pool_set_nomerges),
    ("pool.set-poll-max-us", pool_set_poll_max_us),
];

const MAX_WEIGHT: u16 = 1000;
const MAX_INSPECT: u32 = 4096;
const MAX_NOMERGES: u8 = 2;
const MAX_POLL_US: u32 = 10_000;

/// Calls the method `name` with `params`, which is an object.
pub(super) fn call(name: &str, params: Value, steer: &dyn Steer) -> Answer {
    match METHODS.iter().find(|(known, _)| *known == name) {
        Some((_, method)) => method(steer, params),
        None => Err(Fault::Method(name.to_owned())),
    }
}

fn given<T: DeserializeOwned>(params: Value) -> Result<T, Fault> {
    serde_json::from_value(params).map_err(|e| Fault::Params(e.to_string()))
}

fn within<T: Copy + PartialOrd + std::fmt::Display>(
    name: &str,
    value: T,
    low: T,
    high: T,
) -> Result<T, Fault> {
    if value < low || value > high {
        let why = format!("{name} is {value}, but has to be from {low} to {high}");
        return Err(Fault::Params(why));
    }
    Ok(value)
}

/// Writes as long as there is room, so that a result that is too large is never made.
struct Bounded {
    text: Vec<u8>,
    max: usize,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.max - self.text.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn json(value: &impl Serialize) -> Answer {
    let mut out = Bounded { text: Vec::new(), max: MAX_ANSWER };
    match serde_json::to_writer(&mut out, value) {
        Ok(()) => Ok(out.text),
        Err(e) if e.is_io() => Err(Fault::TooLarge),
        Err(e) => Err(Fault::Internal(e.to_string())),
    }
}

/// The result of what has no other result: an object, to which fields can be added one day.
fn done() -> Answer {
    Ok(b"{}".to_vec())
}

fn version(_: &dyn Steer, params: Value) -> Answer {
    let params::Nothing {} = given(params)?;
    json(&shape::Version {
        protocol: PROTOCOL,
        program: env!("CARGO_PKG_VERSION").to_owned(),
        methods: METHODS.iter().map(|(name, _)| (*name).to_owned()).collect(),
    })
}

fn disk_list(steer: &dyn Steer, params: Value) -> Answer {
    let params::Nothing {} = given(params)?;
    json(&shape::DiskList { disks: steer.disks() })
}

fn disk_stats(steer: &dyn Steer, params: Value) -> Answer {
    let p: params::Stats = given(params)?;
    json(&steer.disk_stats(&p.disk, p.queues, p.buckets)?)
}

fn disk_inspect(steer: &dyn Steer, params: Value) -> Answer {
    let p: params::Inspect = given(params)?;
    let most = within("limit", p.limit, 1, MAX_INSPECT)?;
    json(&steer.inspect(&p.disk, most)?)
}

fn disk_set_limits(steer: &dyn Steer, params: Value) -> Answer {
    let p: params::SetLimits = given(params)?;
    steer.set_limits(&p.disk, p.limits.into())?;
    done()
}

fn disk_set_weight(steer: &dyn Steer, params: Value) -> Answer {
    let p: params::SetWeight = given(params)?;
    steer.set_weight(&p.disk, within("weight", p.weight, 1, MAX_WEIGHT)?)?;
    done()
}

fn disk_set_nr_requests(steer: &dyn Steer, params: Value) -> Answer {
    let p: params::SetNrRequests = given(params)?;
    let requests = p.nr_requests.map(|n| within("nr_requests", n, 1, u16::MAX)).transpose()?;
    steer.set_nr_requests(&p.disk, requests)?;
    done()
}

fn disk_resize(steer: &dyn Steer, params: Value) -> Answer {
    let p: params::Resize = given(params)?;
    json(&steer.resize(&p.disk, p.size, p.shrink)?)
}

fn pool_list(steer: &dyn Steer, params: Value) -> Answer {
    let params::Nothing {} = given(params)?;
    json(&shape::PoolList { pools: steer.pools() })
}

fn pool_get_scheduler(steer: &dyn Steer, params: Value) -> Answer {
    let p: params::Pool = given(params)?;
    json(&steer.scheduler(&p.pool)?)
}

fn pool_set_scheduler(steer: &dyn Steer, params: Value) -> Answer {
    let p: params::SetScheduler = given(params)?;
    let tunables: Vec<(String, String)> =
        p.tunables.into_iter().map(|(name, value)| (name, value.0)).collect();
    steer.set_scheduler(&p.pool, &p.scheduler, &tunables)?;
    done()
}

fn pool_tunable(steer: &dyn Steer, params: Value) -> Answer {
    let p: params::Tunable = given(params)?;
    let value = p.value.as_ref().map(|v| v.0.as_str());
    json(&shape::TunableValue { value: steer.tunable(&p.pool, &p.name, value)? })
}

fn pool_set_hw_depth(steer: &dyn Steer, params: Value) -> Answer {
    let p: params::SetHwDepth = given(params)?;
    steer.set_hw_depth(&p.pool, p.hw_depth)?;
    done()
}

fn pool_set_nomerges(steer: &dyn Steer, params: Value) -> Answer {
    let p: params::SetNomerges = given(params)?;
    steer.set_nomerges(&p.pool, within("nomerges", p.nomerges, 0, MAX_NOMERGES)?)?;
    done()
}

fn pool_set_poll_max_us(steer: &dyn Steer, params: Value) -> Answer {
    let p: params::SetPollMaxUs = given(params)?;
    steer.set_poll_max_us(&p.pool, within("poll_max_us", p.poll_max_us, 0, MAX_POLL_US)?)?;
    done()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_made_only_as_far_as_it_may_go() {
        let fits = "x".repeat(MAX_ANSWER - 2); // and two quotes
        assert_eq!(json(&fits).map(|t| t.len()), Ok(MAX_ANSWER));
        assert_eq!(json(&format!("{fits}x")), Err(Fault::TooLarge));
    }

    #[test]
    fn what_json_cannot_say_is_an_internal_error() {
        let odd = std::collections::BTreeMap::from([(vec![1_u8], 1)]);
        assert_eq!(json(&odd), Err(Fault::Internal("key must be a string".to_owned())));
    }

    #[test]
    fn ranges_include_their_ends() {
        let range = |n| within("n", n, 1, 3);
        assert_eq!((range(1), range(3)), (Ok(1), Ok(3)));
        let why = |n| Err(Fault::Params(format!("n is {n}, but has to be from 1 to 3")));
        assert_eq!((range(0), range(4)), (why(0), why(4)));
    }

    #[test]
    fn every_method_has_one_name() {
        let names: std::collections::BTreeSet<_> = METHODS.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), METHODS.len());
    }
}
