#!/bin/bash
# Sees to what a build and the tests need: a C compiler (for the crypto library), PostgreSQL's
# programs, curl and Python (for the demo), Rust. Installs what is missing where it may, as root on
# Debian; else says the one command.

set -euo pipefail

RUST=1.95

missing=()
has() { command -v "$1" >/dev/null 2>&1; }
has cc || missing+=(build-essential)
has curl || missing+=(curl ca-certificates)
has python3 || missing+=(python3-minimal)
has git || missing+=(git)
if ! has postgres && ! ls /usr/lib/postgresql/*/bin/postgres /usr/local/lib/postgresql/*/bin/postgres >/dev/null 2>&1; then
    missing+=(postgresql)
fi

if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" = 0 ] && has apt-get; then
        echo "installing: ${missing[*]}"
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -q >/dev/null
        # The private server is started by zcpd; Debian's own cluster would only run beside it.
        mkdir -p /etc/postgresql-common
        [ -e /etc/postgresql-common/createcluster.conf ] || echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
        apt-get install -qy --no-install-recommends "${missing[@]}" >/dev/null
    else
        echo "error: these are missing: ${missing[*]}" >&2
        echo "hint: sudo apt-get install -y ${missing[*]}" >&2
        exit 1
    fi
fi

if ! has cargo && [ -x "$HOME/.cargo/bin/cargo" ]; then
    PATH=$HOME/.cargo/bin:$PATH
fi
rustup="curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y"
if ! has cargo; then
    echo "error: Rust is missing" >&2
    echo "hint: $rustup" >&2
    exit 1
fi
have=$(cargo --version | cut -d' ' -f2)
if [ "$(printf '%s\n' "$RUST" "$have" | sort -V | head -n 1)" != "$RUST" ]; then
    echo "error: Rust $have is too old; $RUST or newer is needed" >&2
    echo "hint: rustup update stable" >&2
    exit 1
fi
