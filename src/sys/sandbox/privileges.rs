//! User, group and capabilities of the calling thread.
//!
//! The C library changes the ids of all threads at once, by a signal to each. Here each thread
//! changes its own, when it closes itself (G1 of [`super`]): no signal, no waiting for others, and no
//! filter has to allow it.
#![allow(unsafe_code, reason = "ids and capabilities have no interface in std")]

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;

/// A user and a group by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

fn check(code: libc::c_long) -> io::Result<()> {
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Who the calling thread is: its effective ids.
#[must_use]
pub fn current() -> Ids {
    // SAFETY: takes nothing and cannot fail.
    let uid = unsafe { libc::geteuid() };
    // SAFETY: as above.
    let gid = unsafe { libc::getegid() };
    Ids { uid, gid }
}

/// Makes the calling thread this user and group for good, in no other group. Nothing happens to a
/// thread that is both already.
///
/// # Errors
/// EPERM for a thread that may not become somebody else.
pub fn become_user(ids: Ids) -> io::Result<()> {
    if current() == ids && ids.uid != 0 {
        return Ok(());
    }
    let Ids { uid, gid } = ids;
    let none = std::ptr::null::<libc::gid_t>();
    // SAFETY: no groups are read from the null pointer, since there are 0.
    check(unsafe { libc::syscall(libc::SYS_setgroups, 0 as libc::size_t, none) })?;
    // SAFETY: takes numbers only.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: as above.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })
}

/// Takes all capabilities from the calling thread, for good.
///
/// # Errors
/// What capset(2) answered, which it has no reason for.
pub fn drop_capabilities() -> io::Result<()> {
    /// `struct __user_cap_header_struct` of linux/capability.h.
    #[repr(C)]
    struct Header {
        version: u32,
        pid: libc::c_int,
    }
    const VERSION_3: u32 = 0x2008_0522;
    let header = Header { version: VERSION_3, pid: 0 };
    // Effective, permitted, inheritable; twice 32 bits of each.
    let none = [[0_u32; 3]; 2];
    // SAFETY: both are what capset(2) reads with this version, and live during the call.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) })
}

/// The numbers of the user `name`, which may be a number already: its own, and that of its group if
/// it is known to the system. `None` when there is no such user.
///
/// # Errors
/// What getpwnam_r(3) or getpwuid_r(3) answered.
pub fn user_ids(name: &str) -> io::Result<Option<(u32, Option<u32>)>> {
    let number = name.parse::<u32>().ok();
    let Ok(name) = CString::new(name) else { return Ok(None) };
    let mut entry = MaybeUninit::<libc::passwd>::uninit();
    let mut words: Vec<libc::c_char> = vec![0; 1024];
    loop {
        let mut found = std::ptr::null_mut();
        let (to, text, len) = (entry.as_mut_ptr(), words.as_mut_ptr(), words.len());
        let code = match number {
            // SAFETY: all buffers are ours, live through the call, and `len` is that of `words`.
            Some(uid) => unsafe { libc::getpwuid_r(uid, to, text, len, &raw mut found) },
            // SAFETY: as above.
            None => unsafe { libc::getpwnam_r(name.as_ptr(), to, text, len, &raw mut found) },
        };
        match code {
            0 | libc::ENOENT | libc::ESRCH if found.is_null() => {
                return Ok(number.map(|uid| (uid, None)));
            }
            0 => {
                // SAFETY: a result that is not null points to `entry`, which is filled then.
                let found = unsafe { &*found };
                return Ok(Some((found.pw_uid, Some(found.pw_gid))));
            }
            libc::ERANGE => words.resize(words.len() * 2, 0),
            libc::EINTR => {}
            code => return Err(io::Error::from_raw_os_error(code)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel says of the calling thread.
    fn status(field: &str) -> String {
        let text = std::fs::read_to_string("/proc/thread-self/status").expect("this is Linux");
        let line = text.lines().find_map(|line| line.strip_prefix(field)).expect("a field of it");
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn users_are_found_by_name_and_by_number() {
        assert_eq!(user_ids("root").expect("asked"), Some((0, Some(0))));
        assert_eq!(user_ids("0").expect("asked"), Some((0, Some(0))));
        let (nobody, group) = user_ids("nobody").expect("asked").expect("every system has it");
        assert_eq!(user_ids(&nobody.to_string()).expect("asked"), Some((nobody, group)));
        assert_eq!(user_ids("4000000000").expect("asked"), Some((4_000_000_000, None)));
        for name in ["no-such-user-here", "", "-1", "a\0b", "4294967296"] {
            assert_eq!(user_ids(name).expect("asked"), None, "{name:?}");
        }
    }

    /// On a thread of its own, which ends with what it gave away.
    #[test]
    fn a_thread_becomes_somebody_and_the_others_stay() {
        let before = current();
        if before.uid != 0 {
            return; // nobody else can become somebody
        }
        let nobody = Ids { uid: 65534, gid: 65533 };
        std::thread::spawn(move || {
            become_user(nobody).expect("root may");
            assert_eq!(current(), nobody);
            assert_eq!(status("Uid:"), "65534 65534 65534 65534");
            assert_eq!(status("Gid:"), "65533 65533 65533 65533");
            assert_eq!(status("Groups:"), "");
            assert_eq!(status("CapEff:"), "0000000000000000");
            become_user(nobody).expect("it is already");
            let back = become_user(Ids { uid: 0, gid: 0 }).expect_err("for good");
            assert_eq!(back.raw_os_error(), Some(libc::EPERM));
        })
        .join()
        .expect("as asserted there");
        assert_eq!(current(), before);
    }

    #[test]
    fn a_thread_without_capabilities_has_none() {
        std::thread::spawn(|| {
            drop_capabilities().expect("everybody may");
            for field in ["CapEff:", "CapPrm:", "CapInh:", "CapAmb:"] {
                assert_eq!(status(field), "0000000000000000", "{field}");
            }
        })
        .join()
        .expect("as asserted there");
    }
}
