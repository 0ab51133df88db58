# shellcheck shell=bash
# What the scripts of this directory share. Sourced, never run.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Everything made for guests lives here. Safe to delete: it is made again.
# shellcheck disable=SC2034  # used by the scripts that source this file
guest_dir=$repo/target/guest

say() { printf '%s\n' "$*" >&2; }

die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# quietly LOG COMMAND...: runs it with all output in LOG, shown only if it fails.
quietly() {
    local log=$1
    shift
    if ! "$@" >"$log" 2>&1; then
        tail -n 30 "$log" >&2
        die "this failed: $*"
    fi
}

apt_updated=no

# apt_install PACKAGE...: installs without recommends and without questions.
apt_install() {
    [ "$(id -u)" = 0 ] || die "these packages are missing and only root can install them: $*"
    command -v apt-get >/dev/null || die "no apt-get here; install what these Debian packages hold: $*"
    say "installing: $*"
    local log
    log=$(mktemp)
    if [ "$apt_updated" = no ]; then
        quietly "$log" apt-get -o DPkg::Lock::Timeout=300 update
        apt_updated=yes
    fi
    quietly "$log" env DEBIAN_FRONTEND=noninteractive apt-get \
        -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confold \
        install -y --no-install-recommends --allow-downgrades "$@"
    rm -f "$log"
}

# need_commands COMMAND=PACKAGE...: installs the packages of the commands that are not there.
need_commands() {
    local pair missing=()
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
    done
    [ ${#missing[@]} = 0 ] || apt_install "${missing[@]}"
}

# need_files FILE=PACKAGE...: the same for files.
need_files() {
    local pair missing=()
    for pair in "$@"; do
        [ -e "${pair%%=*}" ] || missing+=("${pair#*=}")
    done
    [ ${#missing[@]} = 0 ] || apt_install "${missing[@]}"
}

# A qemu-utils of another release (from backports, say) conflicts with this release's
# qemu-system-x86, so the two are brought to one version together.
need_qemu() {
    command -v qemu-system-x86_64 >/dev/null && return
    local packages=(qemu-system-x86) version installed
    installed=$(dpkg-query -W -f '${db:Status-Abbrev} ${Version}' qemu-utils 2>/dev/null || true)
    if [ "${installed%% *}" = ii ]; then
        [ "$apt_updated" = yes ] || quietly /dev/null apt-get -o DPkg::Lock::Timeout=300 update
        version=$(apt-cache policy qemu-system-x86 | awk '/Candidate:/ { print $2 }')
        packages+=("qemu-utils=$version")
    fi
    apt_install "${packages[@]}"
}
