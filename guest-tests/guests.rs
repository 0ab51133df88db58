//! Real guests do all their disk I/O through the daemon: under QEMU, and as User-mode Linux.
//! See `guest/mod.rs` for how, and each test for what.

#[path = "common/admin.rs"]
mod admin;
mod guest;
mod qemu_boot;
mod qemu_crash;
mod qemu_data;
mod qemu_events;
mod qemu_resize;
mod qemu_steer;
mod uml_verify;
