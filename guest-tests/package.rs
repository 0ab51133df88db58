//! What `scripts/package` stages is what management software looks for (docs/interop/
//! vhost-user.json, `VhostUserBackend`).

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_vhost-user-blkmq");

/// Stages the program under test below a new directory.
fn package(prefix: Option<&str>) -> (tempfile::TempDir, Output) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/package"));
    command.arg(dir.path()).env("BINARY", PROGRAM).env_remove("PREFIX");
    if let Some(prefix) = prefix {
        command.env("PREFIX", prefix);
    }
    let output = command.output().expect("bash is everywhere");
    (dir, output)
}

/// A path of the installed system, below the staging directory.
fn staged(dir: &tempfile::TempDir, path: &str) -> PathBuf {
    dir.path().join(path.trim_start_matches('/'))
}

/// Checks one discovery file against the schema and returns the program that it names.
fn discovered(file: &Path) -> String {
    let name = file.file_name().and_then(|n| n.to_str()).expect("text");
    let (digits, rest) = name.split_at(2);
    assert!(digits.bytes().all(|b| b.is_ascii_digit()) && rest.starts_with('-'), "{name}");
    assert!(name.ends_with(".json"), "{name}");
    let text = std::fs::read_to_string(file).expect("readable");
    let json: Value = serde_json::from_str(&text).expect("it is JSON");
    let object = json.as_object().expect("VhostUserBackend is a struct");
    for (key, value) in object {
        match key.as_str() {
            "description" | "binary" => assert!(value.is_string(), "{key}: {value}"),
            "type" => assert_eq!(value, "block"),
            "tags" => assert!(value.is_array(), "tags: {value}"),
            other => panic!("the schema has no member {other}"),
        }
    }
    for key in ["description", "type", "binary"] {
        assert!(object.contains_key(key), "{key} is not optional");
    }
    let binary = json["binary"].as_str().expect("a string");
    assert!(Path::new(binary).is_absolute(), "{binary}");
    binary.to_owned()
}

#[test]
fn the_discovery_file_names_the_program_that_is_staged() {
    for (prefix, folder) in [(None, "/usr"), (Some("/opt/blk mq/"), "/opt/blk mq")] {
        let (dir, output) = package(prefix);
        assert!(output.status.success(), "{output:?}");
        let file = format!("{folder}/share/qemu/vhost-user/50-vhost-user-blkmq.json");
        let binary = discovered(&staged(&dir, &file));
        assert_eq!(binary, format!("{folder}/bin/vhost-user-blkmq"));
        let program = staged(&dir, &binary);
        let mode = std::fs::metadata(&program).expect("it is staged").permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        // Management software asks the program that it found for what it can do.
        let said = Command::new(program).arg("--print-capabilities").output().expect("it runs");
        let json: Value = serde_json::from_slice(&said.stdout).expect("it is JSON");
        assert_eq!(json["type"], "block");
        assert_eq!(json["features"], serde_json::json!(["read-only", "blk-file"]));
        for name in ["README.md", "LICENSE-APACHE", "LICENSE-BSD-3-Clause"] {
            let path = format!("{folder}/share/doc/vhost-user-blkmq/{name}");
            assert!(staged(&dir, &path).is_file(), "{path}");
        }
    }
}

#[test]
fn prefixes_that_cannot_be_written_are_refused() {
    for (prefix, word) in [("usr", "absolute"), ("/a\"b", "quotes"), ("/a\\b", "backslashes")] {
        let (dir, output) = package(Some(prefix));
        assert_eq!(output.status.code(), Some(2), "{prefix}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(word), "{output:?}");
        assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 0);
    }
}
