//! A vhost-user-blk back-end with a block layer of its own, in the spirit of Linux's blk-mq.
//!
//! One process serves virtio-blk disks to virtual machines over vhost-user. A virtqueue is a
//! hardware context (**hctx**), a descriptor-head index is a **tag**, and between the rings and a
//! disk image driven by io_uring stand plug, dispatch, flush machine and scheduler.
//!
//! # Words
//!
//! | word | meaning |
//! | --- | --- |
//! | head, tag | the guest's descriptor-head index; it *is* the tag. No allocator, no search |
//! | bio | one guest request: one head |
//! | request | one dispatch unit of the core: one bio, or several merged ones |
//! | hctx | one virtqueue with its tag set and counters; owned by one thread at a time |
//! | domain | the hctxs that share one scheduler instance; one for each thread |
//! | pool | some disks, the queue threads that serve them, and the scheduler that they share |
//! | image | where a disk's content lives: raw file, block device, null |
//! | channel | one thread's completion-based way into an image |
//! | lane | one disk on one queue thread: its channel, its flush machine, its limits' waiting room |
//!
//! # Rooms, in the order a request travels
//!
//! ```text
//!   front-end (QEMU, cloud-hypervisor, ...)          guest memory: rings and data
//!        | unix socket                                     |
//!   +----v------+   commands, by value   +-----------------v------------------+
//!   |  control  | ---------------------> |  device   queue_thread: THE LOOP   |
//!   |  session  | <--------------------- |  virtqueue > request > slots       |
//!   +----^------+   drained queues       |      | bio            ^ status     |
//!        |                               |  +---v----------------+---+        |
//!   +----+------+                        |  |  blkmq                 |        |
//!   |  daemon   |                        |  |  tags plug hctx sched  |        |
//!   |  epoll    |                        |  |  dispatch flush stats  |        |
//!   +-----------+                        |  +---|--------------------+        |
//!   config, main                         |      v issue()      completion     |
//!                                        |  image (raw, null) over io_uring   |
//!                                        +------------------------------------+
//! ```
//!
//! * [`config`]: what was typed becomes what is meant; contradictions are refused once, here.
//! * [`daemon`]: life cycle: image, queue threads, listener, signals, shutdown order, and the
//!   sandbox's policy: what each kind of thread may still do once everything is open.
//! * [`block`]: words every room shares: sectors, tags, operations, outcomes.
//! * [`control`]: one vhost-user connection; memory table; what control knows of a ring. May
//!   block and allocate; never touches ring entries or guest data.
//! * [`device`]: what the guest sees: config space, split ring, requests, slots; and
//!   [`device::queue_thread`], the only place where ring, core and image meet.
//! * [`blkmq`]: the core, a pure state machine: no guest memory, descriptor, clock, thread or
//!   `unsafe`, no allocation after construction. Time is an argument.
//! * [`image`]: [`image::Image`], the shared handle, and [`image::Channel`], one per thread.
//! * [`sys`]: the only room with `unsafe`: io_uring, guest memory, ring accessors, clock, affinity;
//!   and [`sys::sandbox`], where a thread of any room gives away what it does not need any more.
//! * `testkit`: test builds only: guest-side ring driver, simulated disk, counting allocator.
//! * `tidy`: a test that enforces the arrows, the budgets and the unsafe room.
//!
//! # Arrows ("may name"); nothing points up
//!
//! `main` -> config, daemon. `config` -> image (names of cache modes), the words of limits and errors, and
//! of blkmq what schedulers take.
//! `daemon` -> config, control, device, image, sys, block, and of blkmq what it makes (flush gate,
//! limits, counters, schedulers by name) and shows (gauges, requests in progress). `control` -> device (mailbox,
//! disk, config space, in-flight region), sys, block. `device` -> blkmq, image, sys, block. `blkmq` -> block and
//! nothing else, ever. `image` -> block, sys. `sys` -> block (tags, times). The `tidy` test
//! enforces them, with the parts of a room that may be named.
//!
//! `blkmq` does not call `image`: it asks for one verb, [`blkmq::Issue`], which the queue thread
//! supplies. So the whole core runs in a simulator, and a new image cannot touch scheduling.
//!
//! # Threads
//!
//! * A pool has its queue threads. `none` and `kyber` run on each of them (kyber's tokens are shared
//!   through atomics); `mq-deadline` and `bfq` gather all queues of the pool on its first thread.
//! * `blkmq-resize` takes the sizes of all images when SIGHUP asks for it, and ends then.
//! * `blkmq-admin` and a `blkmq-client` for each operator serve the admin socket; `blkmq-watch` logs
//!   requests that are stuck.
//! * A queue thread sleeps in exactly one place, its io_uring: kicks, mailbox and I/O completions
//!   are all completions of that ring. Before it sleeps it looks at rings and completions for as
//!   long as that has paid lately (`--poll-max-us`; 0 when idle). Virtqueue `i` of disk `d` belongs to queue thread
//!   `(d + i) mod n` of its pool.
//! * One control thread per front-end connection (`blkmq-session`), and the main thread with one
//!   epoll loop for listener, signals and the end of sessions.
//! * Each kind of thread is closed in by itself ([`sys::sandbox::enter`]) before it meets anything that
//!   a guest or a front-end wrote: no privileges, no files by name, and a list of system calls. The
//!   main thread closes last, when everything is open.
//! * Queues are handed over by value through a [`device::mailbox`] and come back drained.
//! * What threads share on the data path hands out grants through atomics: one [`blkmq::FlushGate`]
//!   per disk (permission to sync), its limits, kyber's tokens. Requests never leave their thread.
//! * Counters have one writer each, the queue's thread, and are read by whoever asks. Only the busy
//!   time of a disk is one word for all its queues, changed when one becomes busy or idle.
//!
//! # Laws
//!
//! * **L1 One owner.** A virtqueue, its hctx, its channel and its ring belong to one thread.
//! * **L2 Guest input is hostile and read once.** A descriptor or header is copied, then checked.
//! * **L3 What the kernel may touch, the ring keeps.** Guest memory belongs to a generation that
//!   stays mapped until its last completion. If draining fails at exit, leak; never unmap.
//! * **L4 Every head that was popped is pushed exactly once**, with a status byte, unless the queue
//!   is declared broken. A broken queue harms nobody else and recovers at the next reset.
//! * **L5 Busy is not an error.** Back-pressure ends at the guest's own available ring.
//! * **L6 Drain before you answer**: GET_VRING_BASE, memory changes, disabling, shutdown.
//! * **L7 Everything has a limit** known at start: slots, segments, batch, mailbox.
//! * **L8 A guest can never make us log or allocate.** It can make us count.
//! * **L9 A failed flush latches.** Later flushes answer IOERR until the image is reopened.
//! * **L10 A short transfer is not success.** The rest is issued again. Past the end of the file
//!   (only the last, partial block can be) a read gives zeroes; a file that became shorter under
//!   us gives IOERR, not zeroes. So do requests beyond the end of a disk that was made shorter.
//! * **L11 A flush covers every write completed before it was accepted, on every queue**, and
//!   concurrent flushes share one sync.
//! * **L12 A failure is its own bio's failure**, never a neighbour's.
//!
//! # Story: one 4 KiB read
//!
//! The guest writes head 17 to the available ring and kicks. The kick's poll completes in the
//! queue thread's ring. The thread reads the clock once, turns notifications off and sweeps:
//! [`device::virtqueue`] pops 17; [`device::request`] copies the header, checks the range in
//! sectors, and turns descriptors into checked host buffers in [`device::slots`]; the core claims
//! tag 17 (a live tag means a broken guest) and takes the bio into its plug. When the ring is
//! empty, `run` moves the plug through the scheduler (`none`: straight on) to `issue`, which fills
//! one submission entry aimed at guest memory. Notifications are turned on again, the ring is
//! looked at once more, and one `io_uring_enter` submits and sleeps. (An image on tmpfs is copied by
//! the thread itself, which io_uring would leave to a worker.) The completion goes to the
//! core as an outcome of (asked, got); the core marks 17 done; the status byte, the used entry,
//! one index and at most one notification go out; only then is tag 17 free. No allocation, no
//! lock, no log line.
//!
//! # Story: one flush
//!
//! `Op::Flush` owns no data. It goes past plug and scheduler to the flush machine: the gate says
//! how many writes have completed on all threads; if a good sync began after the last of them
//! there is nothing to do; otherwise the waiters share one `fdatasync`, at most one in flight per
//! image. An error goes to all who waited, and latches. In write-through mode a write with direct
//! I/O carries `RWF_DSYNC`; a write through the page cache, a discard or write-zeroes is followed
//! by a flush before it completes.
//!
//! # Story: a scheduler switch under load
//!
//! The admin socket names pool and scheduler; [`control::pool`] builds the new one, where it may
//! fail and allocate. If it gathers, the queues move to the first thread first: each drains, comes
//! back by value and starts there. A mailbox carries the scheduler over; between two runs what
//! waits moves into it in order of arrival, and what is in flight is nobody's. Nobody waits for the
//! slowest I/O. The old one travels back and is freed off the hot path.
//!
//! # Story: GET_VRING_BASE under load
//!
//! The session sends `Stop` and waits. The queue thread stops popping that ring (the guest's ring
//! is the waiting room); everything fetched completes and is published; the thread cancels the
//! kick's poll, releases its generation of guest memory, and sends the queue's position and
//! eventfds back by value. Only then does the front-end get its answer.
//!
//! # Story: kill -9
//!
//! The front-end keeps guest memory, the rings, and a region in which [`device::inflight`] has marked
//! each head before the core got it, and cleared it after its used index was published. A new process
//! gets all of that on a new connection. Per ring it finishes the clearing that was cut short, goes on
//! fetching at used index plus marked heads, whatever the front-end says, and gives the marked heads
//! to the core again, in the order of their first time. The kernel may still be at work for the dead
//! process; it also keeps its lock on the image until that is done, so a successor that takes the locks
//! cannot be overtaken by it. Every flush gate begins unsynced, so the first flush syncs.
//!
//! # Story: another size
//!
//! SIGHUP, or the admin socket, has [`image::Image::remeasure`] ask the storage. The capacity is one word
//! of [`device::config_space`], against which every request is held after it was found in the ring: a
//! guest that knows a new size has read it before it sent the request. Then the [`control::Herald`] of the
//! session says on the back-end channel that config space has changed, and waits for nothing: the
//! front-end asks on the main connection, and nobody is in its way. A disk that shrinks refuses first,
//! then lets its rings drain, then has its file cut.
//!
//! # Crates: where each stands, and where one is not used and why
//!
//! * `vhost`: in [`control`], `BackendReqHandler` with our own handler, one thread per connection.
//! * `vhost-user-backend`: in tests only, as the reference session. Its daemon owns the threads,
//!   answers GET_VRING_BASE without a drain hook of ours, panics beyond 64 queues, serves one
//!   connection per instance and cannot hand over in-flight memory, so it cannot carry this.
//! * `virtio-queue`: in tests only, as the reference ring. Its accessor costs 64 to 430 ns a
//!   request against about 12 for ours, and ends a malformed chain silently.
//! * `vm-memory`: the mappings behind [`sys::guest`]; the hot path uses checked host pointers.
//! * `virtio-bindings`: constants and layouts. `vmm-sys-util`: eventfds.
//! * `epoll`: the daemon's one control loop. `log`: everywhere but the data path.
//! * `io-uring`: in [`sys::uring`]. `libc`: what the others lack (OFD locks, statx, fcntl).
//! * `clap`, `toml`, `thiserror`, `env_logger`: command line, configuration file, errors, log.
//! * `sd-notify` and the like are not used: the protocol is one datagram, and [`daemon`] says why.
//! * `serde`, `serde_json`: the words of the admin socket, as structs that refuse what they do not know.
//! * `seccompiler`: compiles the lists of system calls to filters. libseccomp would be a C library and
//!   rules that live in its code, not in our tables.
//! * `landlock`: negotiates what of Landlock a kernel has, which is most of the work in using it.
//! * `blkio`, `virtio-driver`: in tests, the independent driver whose word on us counts.
//! * Never `qcow2-rs`: through feature unification it would silence our own logs.
//!
//! # What is absent, and why
//!
//! Dirty log, packed rings, hand-over to a new program; metrics, events and removal of disks at run time: not
//! built yet. The seams they need are here (stopping and starting by
//! value, the admin socket).
//! `VIRTIO_F_RING_RESET` is never offered: QEMU's vhost-user-blk would reset only its own copy.

pub mod blkmq;
pub mod block;
pub mod config;
pub mod control;
pub mod daemon;
pub mod device;
pub mod image;
pub mod sys;
#[cfg(any(test, feature = "testkit"))]
pub mod testkit;
#[cfg(test)]
mod tidy;
