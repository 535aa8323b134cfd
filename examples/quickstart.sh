#!/usr/bin/env bash
# First contact, on Debian 12 or newer or Ubuntu: builds zks_lwip here, then fetches a page from this
# machine's own loopback with a plain, unconfigured curl through the whole path: TUN, lwIP, WebSocket,
# worker.
#
#   examples/quickstart.sh                    builds in this folder
#   examples/quickstart.sh PATH/TO/zks-lwip   builds nothing: tries one that is installed
#
# Changes nothing but this folder and, where something is missing, the installed packages. Needs no
# root once those are there. PYTHON=... chooses another Python (3.11 or later).
set -euo pipefail
unset CDPATH
if [ $# != 0 ]; then
    # From where this was called, and found there.
    installed=$(command -v -- "$1") || { echo "There is no command $1." >&2; exit 2; }
    case $installed in /*) ;; *) installed=$PWD/${installed#./} ;; esac
fi
cd "$(dirname "$0")/.."
. examples/prepare.sh

packages=()
if [ $# = 0 ]; then need_for_build; else choose_python; fi
need_command curl curl
install_packages
if [ $# = 0 ]; then
    make_venv
    build
    python=.venv/bin/python
    zks_lwip=("$python" -m zks_lwip)
    called=.venv/bin/zks-lwip
else
    zks_lwip=("$installed")
    called=$installed
fi

folder=$(mktemp -d)
server=
clean_up() {
    if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; fi
    rm -rf "$folder"
}
trap clean_up EXIT

say "Serving a page on 127.0.0.1, where nothing but this machine can reach it"
mkdir "$folder/page"
page="Hello from the loopback of $(hostname 2>/dev/null || echo this machine), by way of lwIP."
echo "$page" >"$folder/page/index.html"
: >"$folder/served" # here: on a busy machine the server's own comes after the first look at it
"$python" -u -m http.server --bind 127.0.0.1 --directory "$folder/page" 0 \
    >"$folder/served" 2>&1 &
server=$!
port=
for _ in $(seq 100); do
    port=$(sed -n 's/^Serving HTTP on .* port \([0-9]*\) .*/\1/p' "$folder/served")
    if [ -n "$port" ]; then break; fi
    sleep 0.1
done
if [ -z "$port" ]; then
    echo "The page's server did not start:" >&2
    cat "$folder/served" >&2
    exit 1
fi

# A proxy of the caller's would be reached, or not, through the tunnel; this is about the tunnel.
unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY

# In the tunnel, 198.18.0.2 is this machine's 127.0.0.1.
command=("${zks_lwip[@]}" run --stats --dns-static hello.zks.test=198.18.0.2 --
    curl --silent --show-error --max-time 30 "http://hello.zks.test:$port/")
say "Fetching it with curl, whose only network is the tunnel"
echo "\$ ${command[*]}"
status=0
"${command[@]}" >"$folder/fetched" 2>"$folder/counters" || status=$?
cat "$folder/fetched"
if [ $status != 0 ]; then
    cat "$folder/counters" >&2
    exit $status
fi

say "The counters say which way it went"
cat "$folder/counters"
echo 'The page was asked for by:'
grep -F 'GET /' "$folder/served"
if [ "$(cat "$folder/fetched")" != "$page" ]; then
    echo 'What came is not the page that was served.' >&2
    exit 1
fi

cat <<END

It works. Next: any program, through a worker of yours (see README.md):
  $called run --worker wss://worker.example --token-file FILE -- ssh somewhere
or, as root, the whole machine:
  $called connect --worker wss://worker.example --token-file FILE
END
