#!/usr/bin/env bash
# Runs the tests, as root or without:
#
#   tests/run.sh [PYTEST ARGUMENTS...]   sets up and runs them; without arguments all, and what
#                                        tests/sanitize.sh --short runs
#   tests/run.sh --quick [PART]...       style, types and unit tests, while you work
#
# --quick installs and downloads nothing and leaves slow tests out. PART is a package or module of
# zks_lwip (dns, config) or a path, which may be end to end; a part takes seconds more than style and types.
#
# As root on Debian and Ubuntu the packages that the tests need are installed (services among them
# are neither started nor enabled). Without root, tests whose programs are missing are skipped and
# named at the end. With CI=true and as root, a skipped end-to-end test is a failure.
set -euo pipefail
unset CDPATH
umask 022 # other users run what is built here, too
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin
. examples/prepare.sh

# Sets failed where a check of the source finds something.
check_style_and_types() {
    say "Style and types"
    .venv/bin/python -m ruff check . || failed=1
    .venv/bin/python -m ruff format --check . || failed=1
    find zks_lwip/native vendor/lwip/port tests -name '*.[ch]' -exec \
        .venv/bin/clang-format --style=file:zks_lwip/native/.clang-format --dry-run -Werror {} + || failed=1
    .venv/bin/python -m mypy || failed=1
    .venv/bin/python -m mypy --config-file tests/mypy-windows.ini || failed=1
    .venv/bin/python -m mypy --config-file tests/mypy-macos.ini || failed=1
}

# quick [PART]...: style, types and the unit tests of the parts.
quick() {
    local part parts=() workers=()
    if ! .venv/bin/python -c 'import clang_format, mypy, pytest, ruff, xdist, zks_lwip._lwip' 2>/dev/null; then
        echo 'tests/run.sh: this tree is not prepared. Run tests/run.sh tests/unit/test_config.py once: it makes' \
            '.venv and compiles the C.' >&2
        exit 2
    fi
    for part in "$@"; do
        if [ -d "tests/unit/$part" ]; then
            parts+=("tests/unit/$part")
        elif [ -e "tests/unit/test_$part.py" ]; then
            parts+=("tests/unit/test_$part.py")
        elif [ -e "${part%%::*}" ]; then
            parts+=("$part")
        else
            echo "tests/run.sh: $part is no path and none of these parts:" "$(cd tests/unit && echo */)" >&2
            exit 2
        fi
    done
    check_style_and_types
    build
    say "Tests"
    if [ $# = 0 ]; then
        parts=(tests/unit)
        workers=(-n 2)
    fi
    .venv/bin/python -m pytest -q -m 'not slow' "${workers[@]}" "${parts[@]}" || failed=1
    exit $failed
}

failed=0
if [ "${1:-}" = --quick ]; then
    shift
    quick "$@"
fi

# Keeps apt from starting the services that it installs, as policy-rc.d is meant for.
without_services() {
    local policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        trap "rm -f $policy" EXIT
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod 755 $policy
    fi
    "$@"
    if [ -n "$(trap -p EXIT)" ]; then
        rm -f $policy
        trap - EXIT
    fi
}

# libFuzzer and the sanitizers of clang are in a package of its version's.
need_clang_runtime() {
    local version
    version=$(clang -dumpversion)
    [ -e "$(clang --print-file-name="libclang_rt.fuzzer-$(uname -m).a")" ] ||
        packages+=("libclang-rt-${version%%.*}-dev")
}

packages=()
need_for_build
build_packages=${#packages[@]}
for pair in clang:clang curl:curl dbus-daemon:dbus-daemon dig:bind9-dnsutils fish:fish git:git ip:iproute2 iperf3:iperf3 \
    iptables-nft:iptables kdig:knot-dnsutils nft:nftables node:nodejs npm:npm ping:iputils-ping setpriv:util-linux \
    socat:socat ssh:openssh-client sshd:openssh-server sysctl:procps tcpdump:tcpdump zsh:zsh; do
    need_command "${pair%%:*}" "${pair##*:}"
done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    had_sshd=$(command -v sshd || true)
    without_services install_packages
    packages=()
    need_clang_runtime
    install_packages
    # Installed for the tests only: it must not listen after the next boot either.
    if [ -z "$had_sshd" ] && [ -d /run/systemd/system ]; then
        systemctl disable ssh.service ssh.socket 2>/dev/null ||
            echo 'openssh-server was installed for the tests; systemctl could not disable it.' >&2
    fi
else
    if [ $((${#packages[@]} - build_packages)) -gt 0 ]; then
        echo "Not here, so that some tests are skipped: ${packages[*]:build_packages}"
    fi
    packages=("${packages[@]:0:build_packages}")
    install_packages
fi

make_venv test cross release
build
# Once, and not at each of the thousands of starts, where PYTHONDONTWRITEBYTECODE is set.
.venv/bin/python -m compileall -q zks_lwip tests/kits

if [ $# = 0 ]; then
    # Beside all that follows, and behind it: most of that waits for most of the time.
    set -m # in a process group of its own, so that all of it can be ended
    nice -n 2 tests/sanitize.sh --short >build/sanitize.log 2>&1 &
    set +m
    sanitizing=$!
    trap 'kill -- -$sanitizing' EXIT
fi

bring_programs() {
    # unbound, dnsdist, dnsperf and nginx, unpacked only: installed, they would listen on ports 53 and 80.
    .venv/bin/python -m tests.kits.programs
    # systemd-resolved, resolvconf and openresolv likewise: they would take over /etc/resolv.conf.
    .venv/bin/python -m tests.kits.resolver_programs
    # workerd, with what checks the example that runs on it.
    .venv/bin/python -m tests.kits.workerd
    .venv/bin/python -m tests.kits.actionlint
}

# What pytest makes of the tests' source, once: not by each of its workers, where PYTHONDONTWRITEBYTECODE is set
# or they begin together. (What it cannot import the run itself will tell.)
rewrite_tests() {
    PYTHONDONTWRITEBYTECODE='' .venv/bin/python -m pytest -q --collect-only -p no:cacheprovider >/dev/null 2>&1 || :
}

bring_programs & # these are waited for, too
bringing=$!
if [ $# = 0 ]; then rewrite_tests; fi
check_style_and_types
wait $bringing
say "Tests"
# Four at a time, each a file of tests: what goes end to end waits for most of its time. In the
# order of tests/conftest.py.
if [ $# = 0 ]; then set -- -n 4 --dist loadfile --no-loadscope-reorder; fi
.venv/bin/python -m pytest --durations=40 "$@" || failed=1
if [ -n "${sanitizing:-}" ]; then
    trap - EXIT
    wait $sanitizing || failed=1
    cat build/sanitize.log
fi
exit $failed
