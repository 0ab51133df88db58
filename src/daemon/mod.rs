//! The life cycle of the process.
mod control_loop;
mod entrance;
mod poller;
