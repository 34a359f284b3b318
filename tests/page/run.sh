#!/usr/bin/env bash
# The report of seven candidates in headless Chromium: tests/page/run.sh STRATA.
set -euo pipefail
strata=$(realpath "$1")
here=$(dirname "$(realpath "$0")")
root=$(realpath "$here/../..")
out=$root/target/page
source "$root/tests/browser/install.sh"

rm -rf "$out"
mkdir -p "$out/texts"

# Files, types, one with a cache of its own; two texts, one of them hostile, as is the name of a file.
"$strata" convert "$root/models/tiny-rustdoc" -t q4_k_m -o "$out/tiny-Q4_K_M.gguf" 2>"$out/log"
cp "$out/tiny-Q4_K_M.gguf" "$out/tiny-<script>alert(1)<\\script>\"'&<img src=x onerror=alert(2)> and a name that goes on.gguf"
head -c 40000 "$root/tests/data/valid.txt" >"$out/texts/first.txt"
{ printf '</script><script>alert(3)</script>\001\033[31m\342\200\256 --><![CDATA[ ]]>%.0s' {1..40}; tail -c 20000 "$root/tests/data/valid.txt"; } \
    >"$out/texts/<b onclick=alert(4)>second.txt"
texts=()
for text in "$out"/texts/*; do texts+=(-f "$text"); done
page() {
    "$strata" compare "$root/models/tiny-rustdoc" "$out"/tiny-*.gguf q8_0 q6_k q5_k_m q4_0 q2_k+kv=q8_0 "${texts[@]}" -c 256 --chunks 8 \
        --state "$out" "$@" 2>>"$out/log" || { cat "$out/log" && false; }
}
page --both --html "$out/report.html" >"$out/table.txt"
node "$here/check.mjs" "$out/report.html" "$out/shots"
# Parts give the same page, except for what is said of how it was made.
for i in 1 2 3; do page --both --shard "$i/3" -o "$out/part$i"; done
"$strata" compare --merge "$out"/part? --html "$out/merged.html" >"$out/merged.txt"
cmp "$out/table.txt" "$out/merged.txt"
without() { sed 's/<dt>Made by.*<\/dl>//' "$1"; }
cmp <(without "$out/report.html") <(without "$out/merged.html")
