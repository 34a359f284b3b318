#!/usr/bin/env bash
# The chat page in headless Chromium: tests/page-chat/run.sh STRATA against `STRATA serve`, or --mock against a server that can be made to say
# hostile things.
set -euo pipefail
strata=$1
here=$(dirname "$(realpath "$0")")
root=$(realpath "$here/../..")
out=$root/target/page-chat
export STRATA_CACHE_DIR=$out/cache STRATA_CONFIG=
source "$root/tests/browser/install.sh"

rm -rf "$out"
mkdir -p "$out"
node --test "$here/unit.test.mjs" >"$out/unit.log" || { cat "$out/unit.log" && false; }
if [ "$strata" = --mock ]; then
    node "$here/check.mjs" --mock "$out/shots"
    exit
fi
strata=$(realpath "$strata")
"$strata" convert "$root/models/tiny-rustdoc" -t q8_0 -o "$out/tiny-Q8_0.gguf" 2>"$out/log"
"$strata" serve -m "$out/tiny-Q8_0.gguf" --port 0 >"$out/address" 2>>"$out/log" &
server=$!
trap 'kill $server 2>/dev/null || true; wait $server 2>/dev/null || true' EXIT
address=
for _ in {1..300}; do
    address=$(grep -oEm1 'http://[0-9.:]+' "$out/address" "$out/log" -h || true)
    [ -n "$address" ] && break
    kill -0 $server 2>/dev/null || { cat "$out/log" && false; }
    sleep 0.1
done
node "$here/check.mjs" "$address/" "$out/shots"
