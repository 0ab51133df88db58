//! Tests see each store to a ring or to the in-flight region: a hook runs after every one of them, as
//! if the process could be looked at (or killed) at that point.

use std::cell::RefCell;

type Hook = Box<dyn FnMut()>;

thread_local! {
    static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
}

/// Called by what stores, right after the store.
pub fn stored() {
    HOOK.with(|hook| {
        // A hook that stores something itself is not called for that.
        if let Ok(mut hook) = hook.try_borrow_mut()
            && let Some(hook) = hook.as_mut()
        {
            hook();
        }
    });
}

/// Takes the hook away, however its work ends.
struct Away;

impl Drop for Away {
    fn drop(&mut self) {
        HOOK.with(|place| *place.borrow_mut() = None);
    }
}

/// Runs `work` with `hook` called after each store that this thread makes to a ring or to an
/// in-flight region.
pub fn watching<T>(hook: impl FnMut() + 'static, work: impl FnOnce() -> T) -> T {
    HOOK.with(|place| *place.borrow_mut() = Some(Box::new(hook)));
    let _away = Away;
    work()
}

/// What a killed [`until`] unwinds with.
struct Killed;

/// Runs `work` as a process that is killed right after its store number `last` (from 1; 0 kills it
/// before it begins): nothing that comes later happens. `None` when it was killed.
pub fn until<T>(last: u64, work: impl FnOnce() -> T) -> Option<T> {
    if last == 0 {
        return None;
    }
    let mut left = last;
    let kill = move || {
        left -= 1;
        if left == 0 {
            // Not a panic: nothing is wrong, and nothing is printed.
            std::panic::resume_unwind(Box::new(Killed));
        }
    };
    let work = std::panic::AssertUnwindSafe(|| watching(kill, work));
    match std::panic::catch_unwind(work) {
        Ok(done) => Some(done),
        Err(why) if why.is::<Killed>() => None,
        Err(why) => std::panic::resume_unwind(why),
    }
}
