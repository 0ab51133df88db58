//! Small bad trees: every rule can fail, and says where.

use super::Files;
use super::rules::{Report, check};
use super::source::{blank, tokens};

/// A tree of these files, in which `lib.rs` names every room that they are in.
fn report(files: &[(&str, &str)]) -> Report {
    let mut all: Files =
        files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
    all.entry("src/lib.rs".to_owned()).or_insert_with(|| {
        let rooms = ["block", "blkmq", "sys", "device", "control", "daemon"];
        let named = |room: &&&str| {
            files.iter().any(|(path, _)| {
                *path == format!("src/{room}.rs") || path.starts_with(&format!("src/{room}/"))
            })
        };
        let mods: String =
            rooms.iter().filter(named).map(|room| format!("mod {room};\n")).collect();
        format!("//! A tree.\n{mods}")
    });
    // Enough tests, so that Y8 speaks only when it is asked.
    all.insert("guest-tests/many.rs".to_owned(), "test;\n".repeat(1000));
    check(&all)
}

fn faults(files: &[(&str, &str)]) -> Vec<String> {
    report(files).faults
}

#[test]
fn y1_an_arrow_that_points_up_is_named() {
    let bad = "//! x\nuse crate::{block::Tag, device::{Disk, mailbox}};\n";
    assert_eq!(
        faults(&[("src/blkmq.rs", bad)]),
        [
            "src/blkmq.rs:2: Y1: blkmq may not name device::Disk: the arrows allow [\"block\"]",
            "src/blkmq.rs:2: Y1: blkmq may not name device::mailbox: the arrows allow [\"block\"]",
        ]
    );
}

#[test]
fn y1_holds_for_paths_in_code_and_through_super() {
    let deep = "//! x\nfn f() -> u32 {\n    super::super::control::g()\n}\n";
    let files = [("src/device/mod.rs", "//! x\nmod ring;\n"), ("src/device/ring.rs", deep)];
    let [fault] = faults(&files).try_into().expect("one fault");
    assert!(
        fault.starts_with("src/device/ring.rs:3: Y1: device may not name control::g"),
        "{fault}"
    );
    let own = "//! x\nfn f() -> u32 {\n    super::slots::g() + self::h() + crate::device::k()\n}\n";
    let files = [("src/device/mod.rs", "//! x\nmod ring;\n"), ("src/device/ring.rs", own)];
    assert_eq!(faults(&files), [""; 0]);
}

#[test]
fn y1_a_part_of_a_room_can_be_allowed() {
    let good = "//! x\nuse crate::block::Tag;\n";
    assert_eq!(faults(&[("src/sys.rs", good)]), [""; 0]);
    let bad = "//! x\nuse crate::block::Tags;\n";
    assert_eq!(
        faults(&[("src/sys.rs", bad)]),
        [
            "src/sys.rs:2: Y1: sys may not name block::Tags: the arrows allow [\"block::Tag\", \"block::Nanos\"]"
        ]
    );
}

#[test]
fn y1_leaves_tests_and_comments_alone() {
    let good = "//! See crate::control.\n// crate::control\nconst S: &str = \"crate::control\";\n\
                #[cfg(test)]\nmod tests {\n    use crate::control::X;\n}\n";
    assert_eq!(faults(&[("src/blkmq.rs", good)]), [""; 0]);
    let bad = "//! x\n#[cfg(not(test))]\nmod inner {\n    use crate::control::X;\n}\n";
    assert_eq!(faults(&[("src/blkmq.rs", bad)]).len(), 1);
}

#[test]
fn y1_main_names_the_crate_and_new_rooms_need_a_line() {
    let bad = "//! x\nuse vhost_user_blkmq::{config, sys};\n";
    assert_eq!(
        faults(&[("src/main.rs", bad)]),
        ["src/main.rs:2: Y1: main may not name sys: the arrows allow [\"config\", \"daemon\"]"]
    );
    let lib = "//! x\nmod attic;\n";
    assert_eq!(
        faults(&[("src/lib.rs", lib), ("src/attic.rs", "//! x\n")]),
        ["src/attic.rs:1: Y1: a room without a line in ARROWS"]
    );
}

#[test]
fn y2_the_core_has_no_clock() {
    let bad =
        "//! x\nuse std::{collections::BTreeMap, time::Instant};\nfn f() { log::info!(\"\") }\n";
    assert_eq!(
        faults(&[("src/blkmq.rs", bad)]),
        [
            "src/blkmq.rs:2: Y2: the core may not name std::time::Instant: take it as an argument",
            "src/blkmq.rs:3: Y2: the core may not name log::info: take it as an argument",
        ]
    );
    assert_eq!(faults(&[("src/device.rs", bad)]), [""; 0]);
    let number = "//! x\nconst E: i32 = libc::EIO;\n";
    assert_eq!(faults(&[("src/blkmq.rs", number)]), [""; 0]);
}

#[test]
fn y3_unsafe_has_one_room() {
    let bad = "//! unsafe\nfn f() {\n    let s = \"unsafe\";\n    unsafe { g() }\n}\n";
    assert_eq!(
        faults(&[("src/device.rs", bad)]),
        ["src/device.rs:4: Y3: unsafe outside sys: move the operation there"]
    );
    assert_eq!(faults(&[("src/sys.rs", bad)]), [""; 0]);
    let in_test = "//! x\n#[cfg(test)]\nmod tests {\n    unsafe fn f() {}\n}\n";
    assert_eq!(faults(&[("src/device.rs", in_test)]).len(), 1, "tests are no exception");
}

#[test]
fn y4_only_main_prints() {
    let bad =
        "//! x\nfn f() {\n    println!();\n    std::io::stderr();\n    std::process::exit(1)\n}\n";
    assert_eq!(
        faults(&[("src/device.rs", bad)]),
        [3, 4, 5].map(|line| format!(
            "src/device.rs:{line}: Y4: only main.rs prints or exits: return it, or log it"
        ))
    );
    assert_eq!(faults(&[("src/main.rs", bad)]), [""; 0]);
    let fine = "//! x\nfn f(stdout: u32) -> u32 {\n    println(stdout)\n}\n";
    assert_eq!(faults(&[("src/device.rs", fine)]), [""; 0]);
}

#[test]
fn y5_files_and_functions_have_budgets() {
    let body = |lines: usize| format!("fn long(\n) {{\n{}}}\n", "    g();\n".repeat(lines - 3));
    assert_eq!(faults(&[("src/device.rs", &format!("//! x\n{}", body(70)))]), [""; 0]);
    assert_eq!(
        faults(&[("src/device.rs", &format!("//! x\n{}", body(71)))]),
        ["src/device.rs:2: Y5: long has 71 lines of 70: split it"]
    );
    let guarded = format!("//! x\n#[cfg(test)]\nmod tests {{\n{}}}\n", body(600));
    assert_eq!(faults(&[("src/device.rs", &guarded)]), [""; 0]);
    let declared = format!("//! x\ntrait T {{\n    fn f();\n}}\n{}", "// y\n".repeat(495));
    assert_eq!(faults(&[("src/device.rs", &format!("{declared}// z\n"))]), [""; 0]);
    assert_eq!(
        faults(&[("src/device.rs", &format!("{declared}// z\n// z\n"))]),
        ["src/device.rs:1: Y5: 501 lines of 500: split the file"]
    );
}

#[test]
fn y6_every_file_belongs_and_begins_with_a_word() {
    assert_eq!(
        faults(&[("src/device/mod.rs", "//! x\nmod a;\n"), ("src/device/b.rs", "//! x\n")]),
        ["src/device/b.rs: Y6: no `mod` names this file: name it or drop it"]
    );
    assert_eq!(
        faults(&[("src/device.rs", "use std::io;\n//! late\n")]),
        ["src/device.rs:1: Y6: the file does not begin by saying what it is (//!)"]
    );
}

#[test]
fn y7_source_is_ascii() {
    assert_eq!(
        faults(&[("src/device.rs", "//! x\n// \u{2192}\n")]),
        ["src/device.rs:2: Y7: a character that is not ASCII: use an escape or a word"]
    );
}

#[test]
fn y8_tests_are_weighed_against_production() {
    let production = "//! x\n// Comments weigh nothing.\n\n".to_owned() + &"f();\n".repeat(100);
    let tests = |lines: usize| {
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "g();\n".repeat(lines - 3));
        let text = format!("{production}{tests}");
        check(&Files::from([("src/main.rs".to_owned(), text)]))
    };
    let enough = tests(80);
    assert_eq!((enough.production, enough.tests), (100, 80));
    assert_eq!(enough.faults, [""; 0]);
    assert_eq!(
        tests(79).faults,
        ["Y8: 79 lines of tests for 100 of production are less than 80 in 100"]
    );
}

#[test]
fn a_file_behind_a_test_mod_is_a_test() {
    let room = "//! x\n#[cfg(test)]\nmod tests;\n";
    let tests = "//! x\nmod deep;\nuse crate::control::X;\n";
    let report = report(&[
        ("src/blkmq/mod.rs", room),
        ("src/blkmq/tests.rs", tests),
        ("src/blkmq/tests/deep.rs", "fn f() { println!() }\n"),
    ]);
    assert_eq!(report.faults, [""; 0]);
    // `mod blkmq;` of lib.rs; and the two lines of the guard, two and one of the tests.
    assert_eq!((report.production, report.tests), (1, 1000 + 2 + 2 + 1));
}

#[test]
fn a_mod_can_say_where_its_file_is() {
    let room = "//! x\nmod flush;\n";
    let flush = "//! x\n#[cfg(all(test, loom))]\n#[path = \"../blkmq/tests/f.rs\"]\nmod loom;\n";
    let files = [
        ("src/blkmq/mod.rs", room),
        ("src/blkmq/flush.rs", flush),
        ("src/blkmq/tests/f.rs", "//! x\nuse crate::control::X;\n"),
    ];
    assert_eq!(faults(&files), [""; 0]);
}

#[test]
fn literals_and_comments_are_blanked() {
    let table = [
        ("a // b\nc", "a     \nc"),
        ("a /* b /* c */ d */ e", "a                   e"),
        ("f(\"x\\\"y\", 'z', '\\'', '\\u{41}')", "f(      ,    ,     ,         )"),
        ("r#\"a\"b\"# + br\"c\" + b'd' + b\"e\"", "         +       +      +     "),
        ("fn f<'a>(x: &'a str)", "fn f< a>(x: & a str)"),
        ("for r in bar", "for r in bar"),
    ];
    for (text, blanked) in table {
        assert_eq!(blank(text), blanked, "{text}");
    }
    let words: Vec<String> = tokens("a::b(c_1)").into_iter().map(|t| t.text).collect();
    assert_eq!(words, ["a", "::", "b", "(", "c_1", ")"]);
}
