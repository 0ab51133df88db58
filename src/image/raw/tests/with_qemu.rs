//! Locks against QEMU's own programs.

use super::*;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

/// qemu-io with one command, or `None` where it is not installed.
fn qemu_io(path: &Path, options: &[&str], command: &str) -> Option<Output> {
    let run = Command::new("qemu-io")
        .args(["-f", "raw"])
        .args(options)
        .args(["-c", command])
        .arg(path)
        .output();
    match run {
        Ok(output) => Some(output),
        Err(_) => {
            skip("qemu-io is not installed");
            None
        }
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// Whether qemu-io succeeds, or what it says.
fn allowed(path: &Path, options: &[&str], command: &str) -> Result<(), String> {
    let output = qemu_io(path, options, command).expect("installed");
    if output.status.success() { Ok(()) } else { Err(text(&output)) }
}

/// A qemu-io that has the image open until its input ends.
fn user(path: &Path, options: &[&str]) -> Option<Child> {
    let mut child = Command::new("qemu-io")
        .args(["-f", "raw"])
        .args(options)
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    let input = child.stdin.as_mut().expect("piped");
    input.write_all(b"read 0 512\n").expect("it reads its input");
    let output = BufReader::new(child.stdout.as_mut().expect("piped"));
    let answered = output.lines().any(|l| l.expect("text").contains("512/512 bytes"));
    assert!(answered, "qemu-io opened the image");
    Some(child)
}

fn end(mut child: Child) {
    drop(child.stdin.take());
    child.wait().expect("it ends with its input");
}

#[test]
fn qemu_is_refused_what_we_hold() {
    let named = temp(&[0; 1 << 20]);
    let image = RawImage::open(named.path(), &OpenOptions::default()).expect("free");
    let Some(refused) = qemu_io(named.path(), &[], "write 0 512") else { return };
    assert!(!refused.status.success());
    assert!(text(&refused).contains("Failed to get \"write\" lock"), "{}", text(&refused));
    drop(image);
    soon(|| allowed(named.path(), &[], "write -P 7 0 512"));

    let reader = OpenOptions { read_only: true, ..OpenOptions::default() };
    let image = soon(|| RawImage::open(named.path(), &reader));
    let refused = qemu_io(named.path(), &[], "write 0 512").expect("installed");
    assert!(text(&refused).contains("Failed to get \"write\" lock"), "{}", text(&refused));
    soon(|| allowed(named.path(), &["-r"], "read -P 7 0 512"));
    drop(image);

    let shared = OpenOptions { share_rw: true, ..OpenOptions::default() };
    let _image = soon(|| RawImage::open(named.path(), &shared));
    soon(|| allowed(named.path(), &[], "write -P 9 0 512"));
}

#[test]
fn we_are_refused_what_qemu_holds() {
    let named = temp(&[0; 1 << 20]);
    let Some(writer) = user(named.path(), &[]) else {
        return skip("qemu-io is not installed");
    };
    let refused = RawImage::open(named.path(), &OpenOptions::default()).expect_err("refused");
    let words = refused.to_string();
    assert!(
        words.starts_with("Failed to get shared \"write\" lock: Is another process"),
        "{words}"
    );
    let shared = OpenOptions { share_rw: true, ..OpenOptions::default() };
    drop(RawImage::open(named.path(), &shared).expect("all share"));
    end(writer);
    drop(soon(|| RawImage::open(named.path(), &OpenOptions::default())));

    let reader = user(named.path(), &["-r"]).expect("installed");
    let options = OpenOptions { read_only: true, ..OpenOptions::default() };
    drop(soon(|| RawImage::open(named.path(), &options)));
    end(reader);
}
