#!/bin/sh
# Makes .venv with everything that the make targets need, on a bare Debian machine too.
# Usage: scripts/venv.sh
set -eu
cd "$(dirname "$0")/.."

find_python() {
    for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11; do
        [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 || continue
        if "$candidate" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
}

install_debian_python() {
    if ! command -v apt-get >/dev/null 2>&1 || [ "$(id -u)" != 0 ]; then
        echo "Python 3.11 or newer with its venv module is needed: apt-get install python3 python3-venv" >&2
        exit 1
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3 python3-venv python3-pip >/dev/null
}

python=$(find_python)
if [ -z "$python" ] || ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    install_debian_python
    python=$(find_python)
fi

wanted=$(cat pyproject.toml scripts/venv.sh | cksum)
if [ "$(cat .venv/.wanted 2>/dev/null || true)" = "$wanted" ] && .venv/bin/python -c '' 2>/dev/null; then
    exit 0
fi
echo "making .venv (once; about a minute)"
rm -rf .venv
"$python" -m venv .venv
.venv/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
.venv/bin/python -m pip install --quiet --editable '.[openai,testing,uvloop]' --group dev
echo "$wanted" > .venv/.wanted
