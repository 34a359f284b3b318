# What tests in a browser need, from Debian and npm; to be sourced. Sets CHROMIUM; packages of npm lie in target/browser.
browser=$(realpath "$(dirname "${BASH_SOURCE[0]}")")
modules=$(realpath "$browser/../..")/target/browser
export CHROMIUM=${CHROMIUM:-$(command -v chromium || true)}

if [ -z "$CHROMIUM" ] || ! command -v npm >/dev/null; then
    command -v npm >/dev/null && missing=(chromium) || missing=(chromium nodejs npm)
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" fonts-dejavu
    CHROMIUM=$(command -v chromium)
fi
# npm writes its own list when it is done.
if ! cmp -s "$browser/package-lock.json" "$modules/package-lock.json" || ! [ -e "$modules/node_modules/.package-lock.json" ]; then
    mkdir -p "$modules"
    cp "$browser"/package*.json "$modules/"
    npm ci --prefix "$modules" --silent --no-audit --no-fund
fi
