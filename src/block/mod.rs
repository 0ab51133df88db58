//! Words that every room shares. No room has a second name for any of these.
//!
//! * A **bio** is one guest request: one head. A **request** is one dispatch unit: one bio, or
//!   several merged ones. "Request" never means what the guest sent; that is a bio.
//! * A **tag** is the guest's descriptor-head index. There is no tag allocator: the guest has
//!   already chosen a number that is unique among the requests in flight on that queue.
//!
//! Units are types, so that sectors, bytes and nanoseconds cannot be mixed up.

mod ids;
mod on_error;
mod op;
mod outcome;
mod range;

pub use ids::{HctxId, LaneId, Nanos, QueueId, Tag};
pub use on_error::OnError;
pub use op::{Bio, Class, Op};
pub use outcome::{Errno, Outcome, Status};
pub use range::{SECTOR_SIZE, Sector, SectorRange};
