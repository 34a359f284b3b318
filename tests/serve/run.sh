#!/usr/bin/env bash
# A running server and programs that others wrote: the clients of OpenAI and Anthropic, schemathesis by the server's own description, and
# 2,000 hostile requests. tests/serve/run.sh STRATA. Installs what it needs from PyPI into a folder of its own.
set -euo pipefail
strata=$(realpath "$1")
here=$(dirname "$(realpath "$0")")
root=$(realpath "$here/../..")
out=$root/target/serve
export STRATA_CACHE_DIR=$out/cache STRATA_CONFIG=
python=$out/venv/bin/python
mkdir -p "$out"
venv() { rm -rf "$out/venv" && python3 -m venv "$out/venv" 2>/dev/null; }
[ -x "$python" ] || venv || { apt-get update -q && apt-get install -y -q --no-install-recommends python3-venv && venv; }
"$out/venv/bin/pip" install -q --disable-pip-version-check -r "$here/requirements.txt" # asks nobody if all is there

server=
stop() { [ -z "$server" ] || kill "$server" 2>/dev/null || true; }
trap stop EXIT
# Starts a server with these options and sets $address.
start() {
    "$strata" serve -m "${MODEL:-$root/models/tiny-rustdoc}" --port 0 "$@" 2>"$out/log" &
    server=$!
    for _ in $(seq 600); do
        address=$(sed -n 's/^listening on //p' "$out/log")
        [ -z "$address" ] || return 0
        kill -0 "$server" || { cat "$out/log" && exit 1; }
        sleep 0.1
    done
    exit 1
}
# Asks the server to end and sees that it does so well.
finish() {
    kill -TERM "$server"
    wait "$server" || { cat "$out/log" && exit 1; }
    server=
    ! grep -n panicked "$out/log"
}

start
"$python" "$here/clients.py" "$address"
finish

start --slots 2 --queue 8 -c 512 --request-timeout 2 --max-body 1M
"$python" "$here/hostile.py" "$address" "${HOSTILE:-2000}"
finish

start -c 256
cd "$out" # where it keeps its own files
# One worker: Python 3.11 fails at times when two threads parse code, as hypothesis does ("AST constructor recursion depth mismatch").
"$out/venv/bin/st" --config-file "$here/schemathesis.toml" run "$address/openapi.json" --seed 1 --phases coverage,fuzzing \
    --max-examples "${EXAMPLES:-20}" --max-time 120 --workers 1 \
    --exclude-checks positive_data_acceptance --suppress-health-check all --request-timeout 60 --no-color
finish
