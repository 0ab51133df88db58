//! JSON-RPC 2.0 (<https://www.jsonrpc.org/specification>): from a line to its answer.
//!
//! Where we are narrower than the specification, we say so in the answer:
//! * R1 Parameters are given by name only (4.2 allows by position).
//! * R2 A request has the members of section 4 and no others: `parms` is a slip, not an extension.
//! * R3 An id is a string, null, or an integer of 64 bits: what cannot be echoed exactly is not
//!   taken (4 advises against fractions).
//! * R4 A batch has at most [`MAX_BATCH`] calls (6 has no bound). A longer one is refused whole.
//!   Calls of a batch are made one after another.
//! * R5 The answer to a line has about [`MAX_ANSWER`] bytes at most: a result that does not fit
//!   becomes an error. An error is never longer than what it complains of, and a little.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::methods;
use super::steer::{Steer, SteerError};

/// Calls in a batch, at most (R4).
pub(super) const MAX_BATCH: usize = 16;

/// Bytes of the results in one answer, at most (R5).
pub(super) const MAX_ANSWER: usize = 4 << 20;

/// Why there is no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("parse error: {0}")]
    Parse(String),
    #[error("invalid request: {0}")]
    Request(String),
    #[error("method not found: {0}: `version` names them all")]
    Method(String),
    #[error("invalid params: {0}")]
    Params(String),
    #[error("internal error: {0}")]
    Internal(String),
    #[error(transparent)]
    Steer(#[from] SteerError),
    #[error(
        "the answer would have more than 4 MiB: ask for less (`queues`, `buckets`, `limit`), or in \
         several calls"
    )]
    TooLarge,
    #[error("8 clients are connected and in use: close one, or try again in 10 seconds")]
    Crowded,
}

impl Fault {
    /// From -32700 to -32600 as section 5.1 has them; from -32001 our own.
    pub(super) fn code(&self) -> i32 {
        match self {
            Fault::Parse(_) => -32700,
            Fault::Request(_) => -32600,
            Fault::Method(_) => -32601,
            Fault::Params(_) | Fault::Steer(SteerError::Invalid(_)) => -32602,
            Fault::Internal(_) => -32603,
            Fault::Steer(SteerError::NoSuchDisk(_)) => -32001,
            Fault::Steer(SteerError::NoSuchPool(_)) => -32002,
            Fault::Steer(SteerError::Refused { .. }) => -32003,
            Fault::Steer(SteerError::Unanswered(_)) => -32004,
            Fault::TooLarge => -32005,
            Fault::Crowded => -32006,
        }
    }

    fn message(&self) -> String {
        match self {
            Fault::Steer(SteerError::Invalid(why)) => Fault::Params(why.clone()).to_string(),
            Fault::Steer(refused @ SteerError::Refused { .. }) => format!("refused: {refused}"),
            other => other.to_string(),
        }
    }

    /// What a program may want to tell apart.
    fn data(&self) -> Option<Value> {
        match self {
            Fault::Steer(SteerError::Refused { cause, remedy }) => {
                Some(json!({"cause": cause, "remedy": remedy}))
            }
            _ => None,
        }
    }
}

/// An error answer, member by member (sections 5 and 5.1).
#[derive(Serialize)]
struct Refusal<'a> {
    jsonrpc: &'static str,
    id: &'a Value,
    error: ErrorObject,
}

#[derive(Serialize)]
struct ErrorObject {
    code: i32,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
}

/// The answer to a call that has failed.
fn refusal(id: &Value, fault: &Fault) -> Vec<u8> {
    let error = ErrorObject { code: fault.code(), message: fault.message(), data: fault.data() };
    serde_json::to_vec(&Refusal { jsonrpc: "2.0", id, error }).expect("strings and numbers")
}

/// What is said to a client that never got to name an id.
pub(super) fn farewell(fault: &Fault) -> Vec<u8> {
    refusal(&Value::Null, fault)
}

/// The answer to a call that has succeeded, with `result` in JSON.
fn success(id: &Value, result: &[u8]) -> Vec<u8> {
    let mut out = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":").into_bytes();
    out.extend_from_slice(result);
    out.push(b'}');
    out
}

/// Does what the line says; the answer has no newline yet. `None` when nobody wants one. `go_on` is
/// asked before every call: when it says no, that is the end of the line, and of its answer.
pub(super) fn answer(
    line: &[u8],
    steer: &dyn Steer,
    go_on: &mut dyn FnMut() -> bool,
) -> Option<Vec<u8>> {
    let calls = match serde_json::from_slice(line) {
        Err(e) => return Some(farewell(&Fault::Parse(e.to_string()))),
        Ok(Value::Array(calls)) => calls,
        Ok(call) => return if go_on() { one(call, steer, MAX_ANSWER) } else { None },
    };
    if calls.is_empty() || calls.len() > MAX_BATCH {
        let why = format!("a batch has from 1 to {MAX_BATCH} calls, this one has {}", calls.len());
        return Some(farewell(&Fault::Request(why)));
    }
    let mut out = vec![b'['];
    for call in calls {
        if !go_on() {
            return None;
        }
        let Some(answer) = one(call, steer, MAX_ANSWER.saturating_sub(out.len())) else {
            continue;
        };
        if out.len() > 1 {
            out.push(b',');
        }
        out.extend_from_slice(&answer);
    }
    out.push(b']');
    if out.len() > 2 { Some(out) } else { None }
}

/// One call. `None` for a notification (4.1), unless it is so wrong that it may not be one.
fn one(call: Value, steer: &dyn Steer, room: usize) -> Option<Vec<u8>> {
    let Value::Object(mut call) = call else {
        return Some(farewell(&Fault::Request("a request is an object".to_owned())));
    };
    let id = call.remove("id");
    if !id.as_ref().is_none_or(is_id) {
        let why = "`id` is a string, null, or an integer of 64 bits"; // R3
        return Some(farewell(&Fault::Request(why.to_owned())));
    }
    match (run(call, steer), id) {
        (Err(fault @ Fault::Request(_)), id) => Some(refusal(&id.unwrap_or(Value::Null), &fault)),
        (_, None) => None,
        (Ok(result), Some(id)) if result.len() <= room => Some(success(&id, &result)),
        (Ok(_), Some(id)) => Some(refusal(&id, &Fault::TooLarge)),
        (Err(fault), Some(id)) => Some(refusal(&id, &fault)),
    }
}

fn is_id(id: &Value) -> bool {
    match id {
        Value::Null | Value::String(_) => true,
        Value::Number(n) => !n.is_f64(),
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => false,
    }
}

/// A request without its id.
fn run(mut call: Map<String, Value>, steer: &dyn Steer) -> Result<Vec<u8>, Fault> {
    let request = |why: &str| Fault::Request(why.to_owned());
    if call.remove("jsonrpc") != Some(Value::from("2.0")) {
        return Err(request("`jsonrpc` has to be \"2.0\""));
    }
    let Some(Value::String(method)) = call.remove("method") else {
        return Err(request("`method` has to be a string"));
    };
    let params = call.remove("params");
    if let Some(name) = call.keys().next() {
        return Err(Fault::Request(format!("unknown member `{name}`"))); // R2
    }
    match params {
        None => methods::call(&method, Value::Object(Map::new()), steer),
        Some(params @ Value::Object(_)) => methods::call(&method, params, steer),
        Some(Value::Array(_)) => Err(Fault::Params("give them by name, as an object".to_owned())),
        Some(_) => Err(request("`params` has to be an object")),
    }
}

#[cfg(test)]
mod tests;
