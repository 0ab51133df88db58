//! argv -> Config -> run -> exit code. The only file that prints or exits.
//!
//! Exit codes: 0 for a good end, 1 for what went wrong while starting or serving, 2 for a wrong
//! command line.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use vhost_user_blkmq::config::{self, Command};
use vhost_user_blkmq::daemon;

fn main() -> ExitCode {
    let argv: Vec<_> = std::env::args_os().collect();
    match config::from_argv(&argv) {
        Err(e) => complain(&e, 2),
        Ok(Command::Print(text)) => match std::io::stdout().write_all(text.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => complain(&e, 1),
        },
        Ok(Command::Serve(config)) => {
            daemon::logging::start(config.log_level);
            match daemon::run(&config) {
                Ok(()) => ExitCode::SUCCESS,
                Err(e) => complain(&e, 1),
            }
        }
    }
}

/// The error and what caused it, on one line.
fn complain(error: &dyn Error, code: u8) -> ExitCode {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
        next = cause.source();
    }
    let line = line.replace('\n', " ");
    // Nobody reads stderr: the code has to say it.
    let _ = writeln!(std::io::stderr(), "vhost-user-blkmq: {line}");
    ExitCode::from(code)
}
