# shellcheck shell=bash
# Which Rust is used. Sourced, never run.

# The oldest that builds this: rust-version in Cargo.toml.
rust_oldest=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$(dirname "${BASH_SOURCE[0]}")/../Cargo.toml")
# The one whose warnings are errors in ci/check, so that a new compiler never breaks a checkout.
# shellcheck disable=SC2034  # used by the scripts that source this file
rust_pinned=1.95.0

PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
export PATH

rust_version() { rustc --version 2>/dev/null | cut -d ' ' -f 2; }

# Whether cargo, rustfmt and clippy are there and new enough.
rust_is_there() {
    local version
    version=$(rust_version) || return 1
    [ -n "$version" ] && cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 &&
        [ "$(printf '%s\n' "$rust_oldest" "$version" | sort -V | head -n 1)" = "$rust_oldest" ]
}
