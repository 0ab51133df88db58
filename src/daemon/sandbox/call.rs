//! What a thread may ask of the kernel, as rows of a table; and rows as filters.
//!
//! * F1 A call that no row allows kills the process, at once and for good.
//! * F2 A call that is refused answers an error and harms nobody: what libraries ask on their way to
//!   something better (files that they look for, an interface that is newer than needed). These are
//!   filters of their own, below the one of F1: the strictest answer wins.
//! * F3 A row with conditions costs some instructions with each such call. One without costs nearly
//!   nothing: the kernel remembers calls that are allowed whatever their arguments are (Linux 5.11).
//!   So the calls of the data path have no conditions.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

/// A system call and what becomes of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) number: libc::c_long,
    /// As the constant is called.
    name: &'static str,
    pub(super) rule: Rule,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// Allowed.
    Any,
    /// Allowed when all conditions of one of these lists hold.
    If(&'static [&'static [Cond]]),
    /// Answered with this error number (F2).
    Refuse(i32),
}

/// A condition on one argument, of which the lower 32 bits are looked at: so does the kernel for all
/// arguments that are named here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cond {
    /// Argument (from 0) and value.
    Is(u8, u64),
    /// Argument, the bits that matter, and their value.
    Bits(u8, u64, u64),
    /// The argument is the number of our own process.
    OwnProcess(u8),
}

impl Row {
    pub(super) const fn new(number: libc::c_long, name: &'static str, rule: Rule) -> Row {
        Row { number, name, rule }
    }

    /// The call's name.
    pub(super) fn name(&self) -> &'static str {
        self.name.strip_prefix("SYS_").unwrap_or(self.name)
    }
}

/// A row: the name of libc's constant, and a rule unless the call is simply allowed.
macro_rules! call {
    ($number:ident) => {
        $crate::daemon::sandbox::call::Row::new(
            libc::$number,
            stringify!($number),
            $crate::daemon::sandbox::call::Rule::Any,
        )
    };
    ($number:ident, $rule:expr) => {
        $crate::daemon::sandbox::call::Row::new(libc::$number, stringify!($number), $rule)
    };
}
pub(super) use call;

/// What the rows of all these lists allow together: of two rules for a call the more generous one.
pub(super) fn union<'a>(
    rows: impl IntoIterator<Item = &'a Row>,
) -> BTreeMap<libc::c_long, Vec<Rule>> {
    let mut all: BTreeMap<libc::c_long, Vec<Rule>> = BTreeMap::new();
    for row in rows {
        let rules = all.entry(row.number).or_default();
        match (rules.first().copied(), row.rule) {
            (None, rule) => rules.push(rule),
            (Some(Rule::Any), _) | (Some(Rule::If(_)), Rule::Refuse(_)) => {}
            (Some(_), Rule::Any) | (Some(Rule::Refuse(_)), _) => *rules = vec![row.rule],
            (Some(Rule::If(_)), Rule::If(_)) => {
                if !rules.contains(&row.rule) {
                    rules.push(row.rule);
                }
            }
        }
    }
    all
}

/// The filters for these rules, in the order in which they are to be installed. `off_list` is what
/// becomes of all other calls.
///
/// # Errors
/// An architecture that seccompiler does not know.
pub(super) fn filters(
    rules: &BTreeMap<libc::c_long, Vec<Rule>>,
    off_list: SeccompAction,
) -> Result<Vec<BpfProgram>, BackendError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let mut allowed = BTreeMap::new();
    let mut refused: BTreeMap<u32, BTreeMap<i64, Vec<SeccompRule>>> = BTreeMap::new();
    for (&number, rules) in rules {
        let mut conditions = Vec::new();
        for rule in rules {
            match rule {
                Rule::Any => {}
                Rule::If(lists) => {
                    for list in *lists {
                        let list: Result<Vec<_>, _> = list.iter().map(condition).collect();
                        conditions.push(SeccompRule::new(list?)?);
                    }
                }
                // Let through by the filter that kills, so that the one that refuses decides.
                Rule::Refuse(code) => {
                    refused.entry(code.unsigned_abs()).or_default().insert(number, Vec::new());
                }
            }
        }
        allowed.insert(number, conditions);
    }
    let mut programs = Vec::new();
    for (code, calls) in refused {
        let action = SeccompAction::Errno(code);
        programs.push(SeccompFilter::new(calls, SeccompAction::Allow, action, arch)?.try_into()?);
    }
    programs.push(SeccompFilter::new(allowed, off_list, SeccompAction::Allow, arch)?.try_into()?);
    Ok(programs)
}

fn condition(of: &Cond) -> Result<SeccompCondition, BackendError> {
    let (argument, operator, value) = match *of {
        Cond::Is(argument, value) => (argument, SeccompCmpOp::Eq, value),
        Cond::Bits(argument, mask, value) => (argument, SeccompCmpOp::MaskedEq(mask), value),
        Cond::OwnProcess(argument) => (argument, SeccompCmpOp::Eq, u64::from(std::process::id())),
    };
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &[&[Cond]] = &[&[Cond::Is(0, 1)]];
    const TWO: &[&[Cond]] = &[&[Cond::Bits(0, 6, 2)]];

    fn rules(of: &[Rule]) -> Vec<Rule> {
        let rows: Vec<_> = of.iter().map(|rule| call!(SYS_read, *rule)).collect();
        union(&rows).remove(&libc::SYS_read).expect("one of them")
    }

    #[test]
    fn of_two_rules_the_more_generous_one_holds() {
        let (one, two) = (Rule::If(ONE), Rule::If(TWO));
        let refuse = Rule::Refuse(libc::EACCES);
        for both in [[Rule::Any, one], [one, Rule::Any], [refuse, Rule::Any], [Rule::Any, refuse]] {
            assert_eq!(rules(&both), [Rule::Any], "{both:?}");
        }
        for both in [[one, refuse], [refuse, one], [one, one]] {
            assert_eq!(rules(&both), [one], "{both:?}");
        }
        assert_eq!(rules(&[one, two, one]), [one, two]);
        assert_eq!(rules(&[refuse]), [refuse]);
    }

    #[test]
    fn refusals_are_filters_of_their_own_and_come_first() {
        let rows = [
            call!(SYS_read),
            call!(SYS_openat, Rule::Refuse(libc::EACCES)),
            call!(SYS_clone3, Rule::Refuse(libc::ENOSYS)),
            call!(SYS_write, Rule::If(ONE)),
        ];
        let made = filters(&union(&rows), SeccompAction::KillProcess).expect("known everywhere");
        assert_eq!(made.len(), 3);
        let answers = |program: &BpfProgram, k: u32| program.iter().any(|step| step.k == k);
        assert!(answers(&made[0], libc::SECCOMP_RET_ERRNO | libc::EACCES.unsigned_abs()));
        assert!(answers(&made[1], libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs()));
        assert!(made[2].iter().all(|step| step.k & 0xffff_0000 != libc::SECCOMP_RET_ERRNO));
        assert!(answers(&made[2], libc::SECCOMP_RET_KILL_PROCESS));
    }

    #[test]
    fn a_row_knows_its_name() {
        assert_eq!(call!(SYS_read).name(), "read");
    }
}
