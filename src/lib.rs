//! A vhost-user-blk back-end with a block layer of its own.

pub mod blkmq;
pub mod block;
pub mod config;
pub mod control;
pub mod device;
pub mod image;
pub mod sys;
#[cfg(any(test, feature = "testkit"))]
pub mod testkit;
