//! Real guests do all their disk I/O through the daemon: under QEMU, and as User-mode Linux.
//! See `guest/mod.rs` for how, and each test for what.

mod guest;
mod qemu_boot;
mod qemu_data;
mod qemu_events;
mod uml_verify;
