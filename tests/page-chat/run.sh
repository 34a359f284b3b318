#!/usr/bin/env bash
# The chat page in headless Chromium: tests/page-chat/run.sh STRATA against `STRATA serve`, or --mock against a server that can be made to say
# hostile things. Installs what it needs from Debian and npm.
set -euo pipefail
strata=$1
here=$(dirname "$(realpath "$0")")
root=$(realpath "$here/../..")
out=$root/target/page-chat
export STRATA_CACHE_DIR=$out/cache STRATA_CONFIG=
export CHROMIUM=${CHROMIUM:-$(command -v chromium || true)}

if [ -z "$CHROMIUM" ] || ! command -v npm >/dev/null; then
    command -v npm >/dev/null && missing=(chromium) || missing=(chromium nodejs npm)
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" fonts-dejavu
    CHROMIUM=$(command -v chromium)
fi
rm -rf "$out"
# Beside the page as the sources lie, since the tests load its modules.
mkdir -p "$out/tests/page-chat" "$out/tools/src/serve"
ln -s "$root/tools/src/serve/page" "$out/tools/src/serve/page"
cp "$here"/* "$out/tests/page-chat/"
npm ci --prefix "$out/tests/page-chat" --silent --no-audit --no-fund

node --test "$out/tests/page-chat/unit.test.mjs" >"$out/unit.log" || { cat "$out/unit.log" && false; }
if [ "$strata" = --mock ]; then
    node "$out/tests/page-chat/check.mjs" --mock "$out/shots"
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
node "$out/tests/page-chat/check.mjs" "$address/" "$out/shots"
