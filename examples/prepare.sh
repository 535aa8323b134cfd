# What examples/quickstart.sh and tests/run.sh share: packages, .venv, the build. Sourced by bash in
# the project's root; functions end the script by themselves when they cannot do their part.

say() { printf '\n== %s\n' "$*"; }

# Sets python to a Python of at least 3.11, or to the one that is to be installed.
choose_python() {
    for python in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
        if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then return; fi
    done
    python=python3
    # A distribution whose own Python is older may carry a newer one under its full name.
    if command -v python3 >/dev/null; then python=python3.11; fi
}

# Adds to the array packages what is missing for building.
need_for_build() {
    choose_python
    local name=${python##*/} include
    if ! command -v "$python" >/dev/null; then
        packages+=("$name-venv" "$name-dev")
    else
        "$python" -c 'import ensurepip, venv' 2>/dev/null || packages+=("$name-venv")
        include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
        [ -e "$include/Python.h" ] || packages+=("$name-dev")
    fi
    command -v gcc >/dev/null || packages+=(gcc)
    echo '#include <stdlib.h>' | gcc -E - >/dev/null 2>&1 || packages+=(libc6-dev)
    [ -e /etc/ssl/certs/ca-certificates.crt ] || packages+=(ca-certificates)
}

# need_command COMMAND PACKAGE: adds PACKAGE to the array packages where COMMAND is missing.
need_command() { command -v "$1" >/dev/null || packages+=("$2"); }

# Installs the array packages: as root at once, with sudo after asking, else says how and exits 2.
install_packages() {
    [ ${#packages[@]} -gt 0 ] || return 0
    local install="apt-get install -y --no-install-recommends ${packages[*]}"
    if ! command -v apt-get >/dev/null; then
        echo "Missing here: ${packages[*]} (Debian's names). Install them and start this again." >&2
        exit 2
    fi
    if [ "$(id -u)" = 0 ]; then
        say "Installing ${packages[*]}"
        run_apt env
        return
    fi
    if command -v sudo >/dev/null && [ -t 0 ]; then
        printf 'Missing here: %s. This would be run:\n  sudo apt-get update && sudo %s\n' \
            "${packages[*]}" "$install"
        local answer
        read -r -p 'Run it? [y/N] ' answer
        if [[ $answer == [yY]* ]]; then
            run_apt sudo env
            return
        fi
    fi
    local sudo=''
    if command -v sudo >/dev/null; then sudo='sudo '; fi
    printf 'Missing here: %s. Type this%s, then start this again:\n  %sapt-get update && %s%s\n' \
        "${packages[*]}" "${sudo:+ }${sudo:- as root}" "$sudo" "$sudo" "$install" >&2
    exit 2
}

# run_apt PREFIX...: updates and installs, with PREFIX (env, or sudo env) before each command.
run_apt() {
    # One unreachable archive of several fails the update; whether that matters the installation shows.
    patiently "$@" apt-get -q update ||
        echo 'apt-get update had errors; trying to install all the same.' >&2
    patiently "$@" DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends \
        "${packages[@]}"
}

# patiently COMMAND...: again while another apt or dpkg (unattended-upgrades, say) holds a lock, for
# up to ten minutes. (apt's own DPkg::Lock::Timeout does not wait for the locks of lists and archives.)
patiently() {
    local errors status deadline=$((SECONDS + ${LOCK_SECONDS:-600})) told=''
    while :; do
        status=0
        { errors=$("$@" 2>&1 >&3); } 3>&1 || status=$?
        # Messages are in any language, the names of the locks are not; 13 is "permission denied".
        if [ $status != 0 ] && [[ $errors =~ /lock(-frontend)?[^a-z] && $errors != *'(13: '* ]] &&
            [ $SECONDS -lt $deadline ]; then
            [ -n "$told" ] || echo 'Another program uses apt or dpkg: waiting until it has ended.' >&2
            told=1
            sleep 1
            continue
        fi
        [ -z "$errors" ] || printf '%s\n' "$errors" >&2
        return $status
    done
}

# make_venv [EXTRA]: .venv with what pyproject.toml asks for. Needs no network once all is there.
make_venv() {
    if ! .venv/bin/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        say "Making .venv with $("$python" --version)"
        rm -rf .venv
        "$python" -m venv .venv
    fi
    say "Python packages for .venv"
    .venv/bin/python - "$@" <<'PYTHON' | PIP_DISABLE_PIP_VERSION_CHECK=1 \
        .venv/bin/python -m pip install --quiet --no-cache-dir --requirement /dev/stdin
import sys, tomllib

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)
wanted = project["build-system"]["requires"] + project["project"]["dependencies"]
for extra in sys.argv[1:]:
    wanted += project["project"]["optional-dependencies"][extra]
print("\n".join(wanted))
PYTHON
    link_command
}

# .venv/bin/zks-lwip, from any folder; where pip has put one there, or .venv is another's, it stays as it is.
link_command() {
    [ -e .venv/bin/zks-lwip ] || [ ! -w .venv/bin ] || ln -sf "$PWD/examples/zks-lwip" .venv/bin/zks-lwip
}

build() {
    say "Building lwIP and zks_lwip (what has changed)"
    .venv/bin/python build_lwip.py build
}
