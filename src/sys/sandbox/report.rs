//! Tells what the sandbox would kill for: a handler of SIGSYS, which a filter with the action "trap"
//! raises in the thread that made the call.
//!
//! The call is not made. The handler writes one line for each call and kind of thread, the first
//! time, and the thread goes on with the answer EPERM. It does only what a signal handler may:
//! no allocation, no lock, one write(2).
#![allow(unsafe_code, reason = "a signal handler, and what the kernel leaves it")]

use std::cell::Cell;
use std::io;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{ARMED, CallName, Thread};

/// Numbers of system calls that are told apart; those beyond are told as often as they are made.
const NUMBERS: usize = 1024;

/// A bit for each call that was told, for each kind of thread and one for those of none.
static TOLD: [[AtomicU64; NUMBERS / 64]; Thread::ALL.len() + 1] =
    [const { [const { AtomicU64::new(0) }; NUMBERS / 64] }; Thread::ALL.len() + 1];

thread_local! {
    // Without a destructor and made by nobody: a handler may read it.
    static KIND: Cell<Option<Thread>> = const { Cell::new(None) };
}

/// The calling thread is of this kind, from now on.
pub(super) fn this_is(thread: Thread) {
    KIND.set(Some(thread));
}

/// Catches SIGSYS.
///
/// # Errors
/// What sigaction(2) answered.
pub(super) fn catch() -> io::Result<()> {
    // SAFETY: all zeroes is a sigaction with an empty mask, no flags and the default action.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = on_sigsys as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: the handler is a function of the form that SA_SIGINFO asks for, and keeps the rules of
    // handlers; no old action is asked for.
    let rc = unsafe { libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The first fields of `siginfo_t` for SIGSYS (linux: asm-generic/siginfo.h), on 64-bit hosts.
#[repr(C)]
struct SysInfo {
    _signal: libc::c_int,
    _errno: libc::c_int,
    code: libc::c_int,
    _address: *const libc::c_void,
    number: libc::c_int,
    _arch: libc::c_uint,
}

/// `si_code` of a SIGSYS that a filter raised.
const SYS_SECCOMP: libc::c_int = 1;

extern "C" fn on_sigsys(_: libc::c_int, info: *const libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel gave a siginfo_t, which is larger than the part that is read, and whose
    // layout for SIGSYS that is.
    let info = unsafe { info.cast::<SysInfo>().read() };
    if info.code != SYS_SECCOMP {
        return; // sent by somebody: nothing was trapped
    }
    // What it interrupted may be about to read errno.
    // SAFETY: takes nothing and cannot fail.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: errno of this thread, which nobody else touches.
    let errno = unsafe { place.read() };
    let names = ARMED.get().and_then(|policy| policy.report).unwrap_or_default();
    if first_time(KIND.get(), info.number) {
        tell(KIND.get(), info.number, names);
    }
    // SAFETY: as above.
    unsafe { place.write(errno) };
    // SAFETY: with SA_SIGINFO the third argument is the thread's context, ours to change.
    unsafe { answer(context.cast(), -i64::from(libc::EPERM)) };
}

/// What the call that was not made returns.
///
/// # Safety
/// `context` is the context that a signal handler was given.
unsafe fn answer(context: *mut libc::ucontext_t, value: i64) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: by this function's contract.
    unsafe {
        (*context).uc_mcontext.gregs[libc::REG_RAX as usize] = value;
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: by this function's contract.
    unsafe {
        (*context).uc_mcontext.regs[0] = value.cast_unsigned();
    }
    #[cfg(target_arch = "riscv64")]
    // SAFETY: by this function's contract.
    unsafe {
        (*context).uc_mcontext.__gregs[10] = value.cast_unsigned();
    }
}

/// Whether this call was not told yet for this kind of thread; it is then.
fn first_time(thread: Option<Thread>, number: i32) -> bool {
    let Some(number) = usize::try_from(number).ok().filter(|n| *n < NUMBERS) else { return true };
    let of = thread.map_or(Thread::ALL.len(), |thread| thread as usize);
    let bit = 1 << (number % 64);
    TOLD[of][number / 64].fetch_or(bit, Ordering::Relaxed) & bit == 0
}

/// A line in the making, on the stack.
struct Line {
    text: [u8; 256],
    len: usize,
}

impl Line {
    /// Adds what there is room for.
    fn add(&mut self, text: &str) {
        for byte in text.bytes() {
            if let Some(place) = self.text.get_mut(self.len) {
                *place = byte;
                self.len += 1;
            }
        }
    }

    fn add_number(&mut self, mut number: u32) {
        let mut digits = [0_u8; 10];
        let mut first = digits.len();
        loop {
            first -= 1;
            digits[first] = b'0' + u8::try_from(number % 10).unwrap_or_default();
            number /= 10;
            if number == 0 || first == 0 {
                break;
            }
        }
        self.add(std::str::from_utf8(&digits[first..]).unwrap_or_default());
    }
}

fn line(thread: Option<Thread>, number: i32, names: &[CallName]) -> Line {
    let mut line = Line { text: [0; 256], len: 0 };
    line.add("vhost-user-blkmq: sandbox: --sandbox=on would kill the process: a thread of kind \"");
    line.add(thread.map_or("none", Thread::name));
    line.add("\" made system call ");
    line.add_number(number.unsigned_abs());
    if let Some((_, name)) = names.iter().find(|(n, _)| *n == libc::c_long::from(number)) {
        line.add(" (");
        line.add(name);
        line.add(")");
    }
    line.add(", refused with EPERM\n");
    line
}

fn tell(thread: Option<Thread>, number: i32, names: &[CallName]) {
    let line = line(thread, number, names);
    // SAFETY: the kernel reads `len` bytes of a text that lives during the call. Nobody is left to
    // tell that nobody reads stderr.
    unsafe { libc::write(libc::STDERR_FILENO, line.text.as_ptr().cast(), line.len) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_thread_and_call() {
        let names = [(41, "socket")];
        let said = |thread, number| {
            let line = line(thread, number, &names);
            String::from_utf8(line.text[..line.len].to_vec()).expect("text")
        };
        assert_eq!(
            said(Some(Thread::Queue), 41),
            "vhost-user-blkmq: sandbox: --sandbox=on would kill the process: a thread of kind \
             \"queue\" made system call 41 (socket), refused with EPERM\n"
        );
        assert!(said(None, 0).contains("\"none\" made system call 0, refused"));
        assert!(said(Some(Thread::Client), i32::MAX).contains("call 2147483647, "));
    }

    #[test]
    fn a_line_that_is_too_long_is_cut() {
        let mut line = Line { text: [0; 256], len: 0 };
        line.add(&"x".repeat(300));
        assert_eq!(line.len, 256);
    }

    #[test]
    fn each_call_is_told_once_for_each_kind() {
        // Numbers that no test makes.
        assert!(first_time(Some(Thread::Watch), 1001));
        assert!(!first_time(Some(Thread::Watch), 1001));
        assert!(first_time(Some(Thread::Admin), 1001) && first_time(None, 1001));
        assert!(first_time(Some(Thread::Watch), 1002));
        assert!(first_time(None, 5000) && first_time(None, 5000), "out of range: always");
        assert!(first_time(None, -1));
    }
}
