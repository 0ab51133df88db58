//! A client of the admin socket: one JSON-RPC call at a time, and its result.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A connection to the admin socket.
pub(crate) struct Admin {
    stream: BufReader<UnixStream>,
}

impl Admin {
    /// Connects. A daemon opens this socket last, so that one whose disks are served already may not
    /// have it yet.
    pub(crate) fn connect(path: &Path) -> Admin {
        let end = Instant::now() + Duration::from_secs(20);
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(e) if e.kind() == ErrorKind::NotFound && Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(e) => panic!("the admin socket is not served: {e}"),
            }
        };
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("open");
        Admin { stream: BufReader::new(stream) }
    }

    /// The answer to a call, whole.
    pub(crate) fn answer(&mut self, method: &str, params: &Value) -> Value {
        let call = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        writeln!(self.stream.get_mut(), "{call}").expect("it reads");
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("an answer in time");
        serde_json::from_str(&line).expect("JSON")
    }

    /// The result of a call that has to succeed.
    pub(crate) fn call(&mut self, method: &str, params: &Value) -> Value {
        let mut answer = self.answer(method, params);
        assert!(answer["error"].is_null(), "{method} {params}: {answer}");
        answer["result"].take()
    }
}
