//! The admin socket: what an operator's program says, and what it is answered.
//!
//! Newline-delimited JSON-RPC 2.0 (<https://www.jsonrpc.org/specification>) on a Unix socket: one
//! message a line. A person can speak it:
//!
//! ```text
//! $ echo '{"jsonrpc":"2.0","id":1,"method":"disk.list"}' | socat - UNIX-CONNECT:/run/blkmq.admin
//! ```
//!
//! ```text
//!   listener --> door ----> client thread: line -> rpc -> methods -> Steer
//!                 |                        answer <---------------------|
//!                 +-------> client thread ...
//! ```
//!
//! [`AdminServer`] serves it, [`Steer`] is what it asks, [`params`] and [`shape`] are the schema.
//! The protocol's version is [`PROTOCOL`]; results may gain members within a version.
//!
//! # Rules
//!
//! * A1 A line has at most 65536 bytes. A longer one is answered with an error, and the
//!   connection ends. A blank line is skipped; the last line of a stream needs no newline.
//! * A2 Answers come in the order of the lines. While an answer has not been taken, no further
//!   line is read: a client that does not read stops itself, and makes us hold one line and one
//!   answer (of about 4 MiB at most) and no more.
//! * A3 At most 8 clients at a time, a thread for each. They share nothing but [`Steer`], so none
//!   waits for another.
//! * A4 A place is taken away only when somebody else wants it: a ninth client gets that of the
//!   client for which nothing has been done for the longest time, if that is at least 10 seconds;
//!   otherwise the ninth is turned away with an error. So neither idle clients nor stuck ones keep
//!   an operator out.
//! * A5 Nothing that comes in can do more than be refused: unknown methods, members and
//!   parameters are, and whatever has no place in the specification. Of members with the same name
//!   the last one counts.
//! * A6 When the socket stops, calls that have begun end, no other begins, and all threads are
//!   joined.
//!
//! A batch has at most 16 calls, which are made one after another. Parameters are given by name.
//! An id is a string, null, or an integer of 64 bits. A request without an id (a notification) is
//! carried out and not answered. What changes something answers `{}`.
//!
//! # Errors
//!
//! | code | meaning |
//! | --- | --- |
//! | -32700 | the line is not JSON |
//! | -32600 | it is JSON, and no request: a member is missing, wrong or unknown; the line or the batch is too long |
//! | -32601 | there is no such method |
//! | -32602 | the parameters are wrong, and would be wrong anywhere |
//! | -32603 | an error of our own |
//! | -32001 | there is no such disk |
//! | -32002 | there is no such pool |
//! | -32003 | refused here and now; `data` has `cause` and `remedy` |
//! | -32004 | a queue thread did not answer in time; what was asked for may still happen |
//! | -32005 | the answer would be too large: ask for less |
//! | -32006 | there are too many clients; the connection ends |
//!
//! ```text
//! --> {"jsonrpc":"2.0","id":1,"method":"disk.resume","params":{"disk":"vda"}}
//! <-- {"jsonrpc":"2.0","id":1,"error":{"code":-32601,
//!      "message":"method not found: disk.resume: `version` names them all"}}
//! --> {"jsonrpc":"2.0","id":2,"method":"pool.set-hw-depth","params":{"pool":"ssd","hw_depth":5000}}
//! <-- {"jsonrpc":"2.0","id":2,"error":{"code":-32003,
//!      "message":"refused: the image takes 1024 requests at a time: give 1024 or less",
//!      "data":{"cause":"the image takes 1024 requests at a time",
//!      "remedy":"give 1024 or less"}}}
//! ```
//!
//! # Methods
//!
//! The examples are run by a test. An answer is one line; here it is broken for reading.
//!
//! ## version
//!
//! The protocol and the program, and what there is to call ([`shape::Version`]).
//!
//! ```text
//! --> {"jsonrpc":"2.0","id":1,"method":"version"}
//! <-- {"jsonrpc":"2.0","id":1,"result":{"protocol":1,"program":"X.Y.Z",
//!      "methods":["version","disk.list","disk.stats","disk.inspect","disk.set-limits",
//!      "disk.set-weight","disk.set-nr-requests","disk.resize","pool.list","pool.get-scheduler",
//!      "pool.set-scheduler","pool.tunable","pool.set-hw-depth","pool.set-nomerges",
//!      "pool.set-poll-max-us"]}}
//! ```
//!
//! ## disk.list
//!
//! All disks ([`shape::DiskSummary`]).
//!
//! ```text
//! --> {"jsonrpc":"2.0","id":1,"method":"disk.list"}
//! <-- {"jsonrpc":"2.0","id":1,"result":{"disks":[{"name":"vda","image":"/srv/a.img",
//!      "pool":"ssd","sectors":2097152,"block_size":512,"read_only":false,"queues":2,
//!      "connected":true,"weight":100,"nr_requests":null,"limits":{}},
//!      {"name":"vdb","image":"/srv/b.img","pool":"ssd","sectors":4194304,
//!      "block_size":4096,"read_only":true,"queues":1,"connected":false,"weight":200,
//!      "nr_requests":64,"limits":{"iops":{"total":{"rate":1000}}}}]}}
//! ```
//!
//! ## disk.stats
//!
//! What a disk has done since the start ([`params::Stats`], [`shape::DiskStats`]): all of it, and
//! each queue by itself unless `"queues":false`. `"buckets":true` adds the buckets of the
//! histograms.
//!
//! ```text
//! --> {"jsonrpc":"2.0","id":1,"method":"disk.stats",
//!      "params":{"disk":"vda","queues":false,"buckets":true}}
//! <-- {"jsonrpc":"2.0","id":1,"result":{"disk":"vda","total":{
//!      "iostat":{"read_ios":100,"read_merges":28,"read_sectors":1024,"read_ticks":12,
//!      "write_ios":0,"write_merges":0,"write_sectors":0,"write_ticks":0,
//!      "in_flight":3,"io_ticks":9,"time_in_queue":12,
//!      "discard_ios":0,"discard_merges":0,"discard_sectors":0,"discard_ticks":0,
//!      "flush_ios":0,"flush_ticks":0},
//!      "gauges":{"free":253,"throttled":0,"plugged":0,"staged":1,"leftover":0,"flush_wait":0,
//!      "in_flight":2,"syncing":0,"merged":0,"done":0},
//!      "requeues":1,"stalls":0,"refused":0,"failed":0,"rejected":2,"flush_bios":0,
//!      "histograms":[{"of":"queue-to-complete","op":"read","count":128,"mean":93750,
//!      "p50":90111,"p90":122879,"p99":245759,"p999":245759,"max":240000,
//!      "buckets":[[90111,100],[122879,20],[245759,8]]},
//!      {"of":"batch-size","count":16,"mean":8,"p50":8,"p90":8,"p99":8,"p999":8,"max":8,
//!      "buckets":[[8,16]]}]}}}
//! ```
//!
//! ## disk.inspect
//!
//! The requests in progress, oldest first, at most `limit` of them (1 to 4096, 256 unless said):
//! where each is, and for how long ([`params::Inspect`], [`shape::Inspection`]).
//!
//! ```text
//! --> {"jsonrpc":"2.0","id":1,"method":"disk.inspect","params":{"disk":"vda","limit":2}}
//! <-- {"jsonrpc":"2.0","id":1,"result":{"disk":"vda","total":3,"requests":[
//!      {"queue":1,"tag":17,"op":"write","sector":2048,"sectors":8,"class":"best-effort",
//!      "stage":"in-flight","age_ns":30000000000},
//!      {"queue":0,"tag":4,"op":"flush","class":"best-effort","stage":"flush-wait",
//!      "age_ns":29000000}]}}
//! ```
//!
//! ## disk.set-limits
//!
//! Replaces all limits of a disk ([`params::SetLimits`]): what is left out is no limit any more.
//! For operations (`iops`) and bytes (`bps`) a second, each in total, for reads and for writes: a
//! rate, and a burst with its length. An operation of more than `iops_size` bytes counts as
//! several.
//!
//! ```text
//! --> {"jsonrpc":"2.0","id":1,"method":"disk.set-limits","params":{"disk":"vda","limits":{
//!      "iops":{"total":{"rate":1000,"burst":4000,"burst_seconds":10}},
//!      "bps":{"write":{"rate":52428800}},"iops_size":65536}}}
//! <-- {"jsonrpc":"2.0","id":1,"result":{}}
//! ```
//!
//! ## disk.set-weight
//!
//! What a disk gets compared to the others of its pool, 1 to 1000 ([`params::SetWeight`]).
//!
//! ```text
//! --> {"jsonrpc":"2.0","id":1,"method":"disk.set-weight","params":{"disk":"vda","weight":200}}
//! <-- {"jsonrpc":"2.0","id":1,"result":{}}
//! ```
//!
//! ## disk.set-nr-requests
//!
//! How many requests of each queue may wait or be in flight ([`params::SetNrRequests`]); null for
//! as many as its ring has entries.
//!
//! ```text
//! --> {"jsonrpc":"2.0","id":1,"method":"disk.set-nr-requests",
//!      "params":{"disk":"vda","nr_requests":64}}
//! <-- {"jsonrpc":"2.0","id":1,"result":{}}
//! --> {"jsonrpc":"2.0","id":2,"method":"disk.set-nr-requests",
//!      "params":{"disk":"vda","nr_requests":null}}
//! <-- {"jsonrpc":"2.0","id":2,"result":{}}
//! ```
//!
//! ## disk.resize
//!
//! Takes the size that the image has now, as SIGHUP does for all disks; with a `size` in bytes it
//! makes a regular file (or the null image) so long first ([`params::Resize`], [`shape::Resized`]).
//! The front-end is told, and tells the guest. A disk that grows has its new end at once. One that
//! shrinks refuses requests beyond the new end at once, finishes those in flight, and only then is
//! the file cut; because what lies there is lost, it has to be said (`"shrink":true`).
//!
//! ```text
//! --> {"jsonrpc":"2.0","id":1,"method":"disk.resize","params":{"disk":"vda"}}
//! <-- {"jsonrpc":"2.0","id":1,"result":{"disk":"vda","sectors":2097152,"before":2097152,
//!      "announced":true}}
//! --> {"jsonrpc":"2.0","id":2,"method":"disk.resize","params":{"disk":"vda","size":2147483648}}
//! <-- {"jsonrpc":"2.0","id":2,"result":{"disk":"vda","sectors":4194304,"before":2097152,
//!      "announced":true}}
//! --> {"jsonrpc":"2.0","id":3,"method":"disk.resize","params":{"disk":"vda","size":1048576}}
//! <-- {"jsonrpc":"2.0","id":3,"error":{"code":-32003,
//!      "message":"refused: 1048576 bytes are less than the disk has, and what is cut off
//!      is lost: give shrink as well, if that is meant",
//!      "data":{"cause":"1048576 bytes are less than the disk has, and what is cut off is lost",
//!      "remedy":"give shrink as well, if that is meant"}}}
//! ```
//!
//! ## pool.list
//!
//! All pools ([`shape::PoolSummary`]). A disk that shares with nobody has a pool of its own.
//!
//! ```text
//! --> {"jsonrpc":"2.0","id":1,"method":"pool.list"}
//! <-- {"jsonrpc":"2.0","id":1,"result":{"pools":[{"name":"ssd","disks":["vda","vdb"],
//!      "threads":2,"scheduler":"mq-deadline","hw_depth":64,"hw_depth_auto":true,
//!      "nomerges":0,"poll_max_us":100}]}}
//! ```
//!
//! ## pool.get-scheduler
//!
//! The scheduler of a pool with its tunables, and what it could be ([`shape::SchedulerReport`]).
//!
//! ```text
//! --> {"jsonrpc":"2.0","id":1,"method":"pool.get-scheduler","params":{"pool":"ssd"}}
//! <-- {"jsonrpc":"2.0","id":1,"result":{"pool":"ssd","scheduler":"mq-deadline",
//!      "available":["none","mq-deadline","kyber","bfq"],
//!      "tunables":{"fifo_batch":"16","writes_starved":"2"}}}
//! ```
//!
//! ## pool.set-scheduler
//!
//! Gives a pool another scheduler, under load ([`params::SetScheduler`]). `tunables` are set
//! before it begins; a value is a string or an integer.
//!
//! ```text
//! --> {"jsonrpc":"2.0","id":1,"method":"pool.set-scheduler",
//!      "params":{"pool":"ssd","scheduler":"kyber","tunables":{"read_lat_nsec":1000000}}}
//! <-- {"jsonrpc":"2.0","id":1,"result":{}}
//! --> {"jsonrpc":"2.0","id":2,"method":"pool.set-scheduler",
//!      "params":{"pool":"ssd","scheduler":"cfq"}}
//! <-- {"jsonrpc":"2.0","id":2,"error":{"code":-32602,"message":"invalid params: there is no
//!      scheduler `cfq`: give none, mq-deadline, kyber or bfq"}}
//! ```
//!
//! ## pool.tunable
//!
//! Reads a tunable of a pool's scheduler, or sets it when there is a `value`; answers with its
//! value afterwards ([`params::Tunable`], [`shape::TunableValue`]).
//!
//! ```text
//! --> {"jsonrpc":"2.0","id":1,"method":"pool.tunable","params":{"pool":"ssd","name":"fifo_batch"}}
//! <-- {"jsonrpc":"2.0","id":1,"result":{"value":"16"}}
//! --> {"jsonrpc":"2.0","id":2,"method":"pool.tunable",
//!      "params":{"pool":"ssd","name":"fifo_batch","value":1}}
//! <-- {"jsonrpc":"2.0","id":2,"result":{"value":"1"}}
//! ```
//!
//! ## pool.set-hw-depth
//!
//! How many requests the pool may have in flight ([`params::SetHwDepth`]); 0 for as many as the
//! images take, null for what the scheduler thinks best, which follows when the scheduler changes.
//! Without a bound a scheduler has nothing to choose from.
//!
//! ```text
//! --> {"jsonrpc":"2.0","id":1,"method":"pool.set-hw-depth","params":{"pool":"ssd","hw_depth":32}}
//! <-- {"jsonrpc":"2.0","id":1,"result":{}}
//! --> {"jsonrpc":"2.0","id":2,"method":"pool.set-hw-depth","params":{"pool":"ssd","hw_depth":null}}
//! <-- {"jsonrpc":"2.0","id":2,"result":{}}
//! ```
//!
//! ## pool.set-nomerges
//!
//! How little the pool merges, as Linux's `nomerges`: 0 all that can be, 1 only what is cheap to
//! find, 2 nothing ([`params::SetNomerges`]).
//!
//! ```text
//! --> {"jsonrpc":"2.0","id":1,"method":"pool.set-nomerges","params":{"pool":"ssd","nomerges":2}}
//! <-- {"jsonrpc":"2.0","id":1,"result":{}}
//! ```
//!
//! ## pool.set-poll-max-us
//!
//! The longest that the pool's threads look for work before they sleep, in microseconds, up to
//! 10000; 0: never ([`params::SetPollMaxUs`]). Whether looking pays each finds out itself.
//!
//! ```text
//! --> {"jsonrpc":"2.0","id":1,"method":"pool.set-poll-max-us","params":{"pool":"ssd","poll_max_us":50}}
//! <-- {"jsonrpc":"2.0","id":1,"result":{}}
//! ```
//!
//! # Crates
//!
//! `serde` and `serde_json`. A JSON-RPC crate is not used: those that are kept up bring an
//! asynchronous runtime, and neither the bound on what an answer may take nor A2 could be had from
//! them; what remains of the protocol is a hundred lines.

mod lines;
mod methods;
pub mod params;
mod rpc;
mod seat;
mod server;
pub mod shape;
mod steer;

pub use server::AdminServer;
pub use steer::{Steer, SteerError};

/// Version of the protocol. It grows when something that worked ceases to.
pub const PROTOCOL: u32 = 1;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
