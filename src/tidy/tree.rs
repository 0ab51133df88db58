//! Which files make up the program, which of them are tests, and what they name.

use std::collections::BTreeMap;

use super::Files;
use super::source::{Token, close, reads, tokens};

/// A file as part of the program.
#[derive(Debug)]
pub(super) struct Module {
    /// Its place: `["device", "queue_thread"]`; empty for `lib.rs`, `["main"]` for `main.rs`.
    pub(super) place: Vec<String>,
    /// Everything in it is test code.
    pub(super) test: bool,
    pub(super) tokens: Vec<Token>,
}

impl Module {
    /// The room it belongs to.
    pub(super) fn room(&self) -> &str {
        self.place.first().map_or("lib", String::as_str)
    }
}

/// Follows every `mod name;` from `lib.rs` and `main.rs`.
pub(super) fn modules(files: &Files) -> BTreeMap<String, Module> {
    let mut found = BTreeMap::new();
    visit(files, "src/lib.rs", "src", &[], false, &mut found);
    visit(files, "src/main.rs", "src", &["main".to_owned()], false, &mut found);
    found
}

/// `dir` is where the file's own modules lie.
fn visit(
    files: &Files,
    path: &str,
    dir: &str,
    place: &[String],
    test: bool,
    found: &mut BTreeMap<String, Module>,
) {
    let Some(text) = files.get(path) else { return };
    let tokens = tokens(text);
    for (i, token) in tokens.iter().enumerate() {
        if token.text != "mod" || !reads(&tokens, i + 2, &[";"]) {
            continue;
        }
        let name = &tokens[i + 1].text;
        let place = [place, std::slice::from_ref(name)].concat();
        let below = format!("{dir}/{name}");
        let places = match path_attribute(text, &tokens, i) {
            Some(attribute) => vec![beside(path, attribute)],
            None => vec![format!("{below}.rs"), format!("{below}/mod.rs")],
        };
        for path in places {
            visit(files, &path, &below, &place, test || token.test, found);
        }
    }
    found.insert(path.to_owned(), Module { place: place.to_vec(), test, tokens });
}

/// What `#[path = "..."]` before the `mod` at token `i` says. Its string is no token, so it is
/// looked up in the text.
fn path_attribute<'a>(text: &'a str, tokens: &[Token], i: usize) -> Option<&'a str> {
    let start = (0..i).rev().take_while(|i| !matches!(tokens[*i].text.as_str(), ";" | "}"));
    let at = start.into_iter().find(|i| reads(tokens, *i, &["[", "path", "=", "]"]))?;
    text.lines().nth(tokens[at].line)?.split('"').nth(1)
}

/// `relative` as seen from the directory that `file` is in.
fn beside(file: &str, relative: &str) -> String {
    let mut parts: Vec<&str> = file.split('/').collect();
    parts.pop();
    for part in relative.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." => {}
            name => parts.push(name),
        }
    }
    parts.join("/")
}

/// A path in the source, from the crate's root or from an extern crate, and its line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) path: Vec<String>,
    pub(super) line: usize,
}

/// Every path that production code of the module names in full (`crate::`, `self::`, `super::`,
/// or from `heads`), use-groups taken apart. Paths within the crate begin with `crate`.
pub(super) fn named(module: &Module, heads: &[&str]) -> Vec<Named> {
    let mut all = Vec::new();
    let tokens = &module.tokens;
    for (i, token) in tokens.iter().enumerate() {
        let inner = i > 0 && tokens[i - 1].text == "::";
        let head = token.text.as_str();
        let known = matches!(head, "crate" | "self" | "super") || heads.contains(&head);
        if token.test || module.test || inner || !known {
            continue;
        }
        let mut paths = Vec::new();
        branches(tokens, i, &mut Vec::new(), &mut paths);
        for path in paths {
            all.push(Named { path: absolute(&module.place, path), line: token.line });
        }
    }
    all
}

/// Takes `a::{b, c::d}` apart from token `i` on; returns the index after it.
fn branches(
    tokens: &[Token],
    mut i: usize,
    prefix: &mut Vec<String>,
    all: &mut Vec<Vec<String>>,
) -> usize {
    let depth = prefix.len();
    loop {
        let text = tokens.get(i).map_or("", |t| t.text.as_str());
        if text == "{" {
            let end = close(tokens, i);
            i += 1;
            while i + 1 < end {
                i = branches(tokens, i, prefix, all).max(i + 1);
                // Past `as name` and the comma.
                while i + 1 < end && tokens[i].text != "," {
                    i += 1;
                }
                i += 1;
            }
            i = end;
            break;
        }
        prefix.push(text.to_owned());
        i += 1;
        if !reads(tokens, i, &["::"]) {
            all.push(prefix.clone());
            break;
        }
        i += 1;
    }
    prefix.truncate(depth);
    i
}

/// Resolves `self` and `super` against where the file stands.
fn absolute(place: &[String], path: Vec<String>) -> Vec<String> {
    let mut base: Vec<String> = Vec::from(["crate".to_owned()]);
    let mut rest = path.as_slice();
    match rest.first().map(String::as_str) {
        Some("self" | "super") => base.extend_from_slice(place),
        _ => return path,
    }
    while let Some((head, tail)) = rest.split_first() {
        match head.as_str() {
            "self" => {}
            "super" if base.len() > 1 => drop(base.pop()),
            _ => break,
        }
        rest = tail;
    }
    base.extend_from_slice(rest);
    base
}
