//! Real guests under QEMU do all their disk I/O through the daemon. See `guest/mod.rs` for how,
//! and each test for what.

#[path = "qemu_boot.rs"]
mod boot;
#[path = "qemu_data.rs"]
mod data;
#[path = "qemu_events.rs"]
mod events;
mod guest;
