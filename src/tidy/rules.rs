//! The rules Y1 to Y8, each as a function from files to faults.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{Token, close, reads, tokens};
use super::tree::{self, Module};
use super::{ARROWS, Files, IMPURE, MAX_FILE_LINES, MAX_FUNCTION_LINES, MIN_TEST_PERCENT};

/// The crate's own name, as `main.rs` has to write it.
const CRATE: &str = "vhost_user_blkmq";

/// What was found.
#[derive(Debug)]
pub(super) struct Report {
    /// One line for each fault: place, rule, remedy.
    pub(super) faults: Vec<String>,
    /// Lines of code.
    pub(super) production: usize,
    /// Lines of code.
    pub(super) tests: usize,
}

/// Holds `files` against every rule.
pub(super) fn check(files: &Files) -> Report {
    let mut report = Report { faults: Vec::new(), production: 0, tests: 0 };
    let modules = tree::modules(files);
    for (path, text) in files {
        ascii(path, text, &mut report.faults);
        if let Some(module) = modules.get(path) {
            let faults = &mut report.faults;
            preamble(path, text, module, faults);
            arrows(path, module, faults);
            purity(path, module, faults);
            unsafety(path, module, faults);
            output(path, module, faults);
            functions(path, module, faults);
            length(path, text, module, faults);
        } else if path.starts_with("src/") {
            report.faults.push(format!("{path}: Y6: no `mod` names this file: name it or drop it"));
        }
    }
    weigh(files, &modules, &mut report);
    report
}

fn fault(faults: &mut Vec<String>, path: &str, line: usize, text: &str) {
    faults.push(format!("{path}:{}: {text}", line + 1));
}

/// Y7.
fn ascii(path: &str, text: &str, faults: &mut Vec<String>) {
    if let Some(line) = text.lines().position(|l| !l.is_ascii()) {
        fault(faults, path, line, "Y7: a character that is not ASCII: use an escape or a word");
    }
}

/// Y6. What a file of tests is, its place says.
fn preamble(path: &str, text: &str, module: &Module, faults: &mut Vec<String>) {
    if !module.test && !text.starts_with("//! ") {
        fault(faults, path, 0, "Y6: the file does not begin by saying what it is (//!)");
    }
}

/// Y1.
fn arrows(path: &str, module: &Module, faults: &mut Vec<String>) {
    let room = module.room();
    let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == room) else {
        if !module.test && room != "lib" {
            fault(faults, path, 0, "Y1: a room without a line in ARROWS");
        }
        return;
    };
    for named in tree::named(module, &[CRATE]) {
        let Some((head, inside)) = named.path.split_first() else { continue };
        let target = inside.first().map_or("", String::as_str);
        let is_room = ARROWS.iter().any(|(name, _)| *name == target);
        if !(head == "crate" || head == CRATE) || !is_room || target == room {
            continue;
        }
        let inside = inside.join("::");
        let fits = |a: &&str| inside == **a || inside.starts_with(&format!("{a}::"));
        if !allowed.iter().any(fits) {
            let text = format!("Y1: {room} may not name {inside}: the arrows allow {allowed:?}");
            fault(faults, path, named.line, &text);
        }
    }
}

/// Y2.
fn purity(path: &str, module: &Module, faults: &mut Vec<String>) {
    if module.room() != "blkmq" {
        return;
    }
    let heads: Vec<&str> = IMPURE.iter().map(|p| p.split("::").next().expect("one")).collect();
    for named in tree::named(module, &heads) {
        let name = named.path.join("::");
        // An errno's number is a word, not an effect.
        if name.starts_with("libc::E") {
            continue;
        }
        if IMPURE.iter().any(|bad| name == *bad || name.starts_with(&format!("{bad}::"))) {
            let text = format!("Y2: the core may not name {name}: take it as an argument");
            fault(faults, path, named.line, &text);
        }
    }
}

/// Y3.
fn unsafety(path: &str, module: &Module, faults: &mut Vec<String>) {
    if matches!(module.room(), "sys" | "testkit") {
        return;
    }
    if let Some(token) = module.tokens.iter().find(|t| t.text == "unsafe") {
        fault(faults, path, token.line, "Y3: unsafe outside sys: move the operation there");
    }
}

/// Y4.
fn output(path: &str, module: &Module, faults: &mut Vec<String>) {
    if module.test || module.room() == "main" {
        return;
    }
    let tokens = &module.tokens;
    for (i, token) in tokens.iter().enumerate().filter(|(_, t)| !t.test) {
        let macros = ["print", "println", "eprint", "eprintln", "dbg"];
        let prints = macros.contains(&token.text.as_str()) && reads(tokens, i + 1, &["!"]);
        let streams = ["stdout", "stderr"].contains(&token.text.as_str())
            && reads(tokens, i + 1, &["(", ")"]);
        let exits = reads(tokens, i, &["process", "::", "exit"]);
        if prints || streams || exits {
            let text = "Y4: only main.rs prints or exits: return it, or log it";
            fault(faults, path, token.line, text);
        }
    }
}

/// Y5, functions.
fn functions(path: &str, module: &Module, faults: &mut Vec<String>) {
    let tokens = &module.tokens;
    for (i, token) in tokens.iter().enumerate() {
        if token.test || module.test || token.text != "fn" {
            continue;
        }
        // Past the signature, to the body or to the semicolon of a declaration.
        let mut body = i + 1;
        while body < tokens.len() && !["{", ";"].contains(&tokens[body].text.as_str()) {
            body = match tokens[body].text.as_str() {
                "(" | "[" => close(tokens, body),
                _ => body + 1,
            };
        }
        if !reads(tokens, body, &["{"]) {
            continue;
        }
        let lines = tokens[close(tokens, body) - 1].line - token.line + 1;
        if lines > MAX_FUNCTION_LINES {
            let name = tokens.get(i + 1).map_or("", |t| t.text.as_str());
            let text = format!("Y5: {name} has {lines} lines of {MAX_FUNCTION_LINES}: split it");
            fault(faults, path, token.line, &text);
        }
    }
}

/// Lines of a file that are test code, all of them.
fn test_lines(tokens: &[Token]) -> usize {
    let mut lines = 0;
    let mut i = 0;
    while i < tokens.len() {
        let end = tokens[i..].iter().position(|t| !t.test).map_or(tokens.len(), |n| i + n);
        if end > i {
            lines += tokens[end - 1].line - tokens[i].line + 1;
        }
        i = end + 1;
    }
    lines
}

/// Lines that hold code for which `wanted` says so; comments and blank lines weigh nothing.
fn code_lines(tokens: &[Token], wanted: impl Fn(&Token) -> bool) -> usize {
    let lines: BTreeSet<usize> = tokens.iter().filter(|t| wanted(t)).map(|t| t.line).collect();
    lines.len()
}

/// Y5, files: by all lines, because all are read.
fn length(path: &str, text: &str, module: &Module, faults: &mut Vec<String>) {
    if module.test {
        return;
    }
    let production = text.lines().count() - test_lines(&module.tokens);
    if production > MAX_FILE_LINES {
        let text = format!("Y5: {production} lines of {MAX_FILE_LINES}: split the file");
        fault(faults, path, 0, &text);
    }
}

/// Y8: by lines of code.
fn weigh(files: &Files, modules: &BTreeMap<String, Module>, report: &mut Report) {
    for (path, text) in files {
        match modules.get(path) {
            None if path.starts_with("src/") => {}
            None => report.tests += code_lines(&tokens(text), |_| true),
            Some(module) if module.room() == "tidy" => {}
            Some(module) => {
                report.tests += code_lines(&module.tokens, |t| module.test || t.test);
                report.production += code_lines(&module.tokens, |t| !module.test && !t.test);
            }
        }
    }
    if report.tests * 100 < report.production * MIN_TEST_PERCENT {
        report.faults.push(format!(
            "Y8: {} lines of tests for {} of production are less than {MIN_TEST_PERCENT} in 100",
            report.tests, report.production
        ));
    }
}
