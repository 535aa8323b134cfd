#!/usr/bin/env bash
# Runs the tests with our C, and lwIP's, under AddressSanitizer and UndefinedBehaviorSanitizer:
#
#   tests/sanitize.sh [PYTEST ARGUMENTS...]   the whole suite (or what the arguments choose)
#   tests/sanitize.sh --short                 unit and property tests, some cut short (tests/kits/short.py),
#                                             and a short fuzz: 10 minutes
#   tests/sanitize.sh --valgrind              the fuzz corpus and the tests of the C, under valgrind
#   tests/sanitize.sh --canary [ARGUMENTS...] as the first, with a bug in the C: it has to fail
#
# Works on a copy of the project in build/sanitize. Needs .venv as tests/run.sh makes it, gcc with
# its libasan, for --short and --canary also clang with its runtime libraries.
set -euo pipefail
unset CDPATH
umask 022 # other users run what is built here, too
cd "$(dirname "$0")/.."
. examples/prepare.sh
root=$PWD
python=$root/.venv/bin/python
tree=$root/build/sanitize/tree
reports=$root/build/sanitize/reports

mode=whole
case ${1:-} in
--short | --valgrind | --canary)
    mode=${1#--}
    shift
    ;;
esac
# What is built of the planted bug must not be taken for the real thing's later on.
if [ "$mode" = canary ]; then tree=$root/build/sanitize/canary; fi
sanitized=$tree/build/python

# Nothing of our C runs in these: they read source, build, pack and compile, parse, plan and show.
# (And the shell that starts this Python takes away what test_surroundings.py wants to see taken away.)
apart=(tests/unit/test_{architecture,build_lwip,cross_compile,lwip_apt,lwip_source,native_sources,packages}.py
    tests/unit/test_{hidden_tests,quick,reach_ins,surroundings}.py tests/netns/test_{quickstart,wheel}.py
    tests/unit/test_{debian,macos_headers,picture,public_names,windows_headers,workflows}.py
    tests/unit/{api,daemon,host,settings,top} tests/unit/cli/test_{completion,configured,flags,man}.py
    tests/unit/test_loading.py)
# No import leads from these to our C, and they start no Python: tests/unit/test_sanitized.py holds that.
without_c=(tests/property/test_dns.py tests/unit/dns)
apart+=(tests/unit/test_sanitized.py "${without_c[@]}")
# What calls our C itself, with memory of Python's.
direct=(tests/unit/stack tests/unit/protocol tests/unit/carrier/test_masking.py tests/property)

copy_tree() {
    local name
    rm -rf "$tree/zks_lwip" "$tree/tests"
    mkdir -p "$tree/vendor/lwip"
    if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
        git ls-files -z --cached --others --exclude-standard
    else # as unpacked from an archive
        find . -path ./build -prune -o -path ./.venv -prune -o -type f -print0
    fi | while IFS= read -r -d '' name; do
        if [ -e "$name" ]; then printf '%s\0' "$name"; fi
    done | tar --create --null --no-recursion --files-from=- | tar --extract --directory="$tree"
    # What tests bring to it is brought once.
    for name in test-programs workerd; do
        rm -rf "$tree/build/$name"
        mkdir -p "$tree/build" "$root/build/$name"
        ln -s "$root/build/$name" "$tree/build/$name"
    done
    rm -rf "$tree/vendor/lwip/src"
    cp -a vendor/lwip/src "$tree/vendor/lwip/"
}

# What pytest has made of the same source outside, where it has: otherwise each of its workers here makes it anew,
# several times as slowly. (It looks at a file's time and size before it takes this.)
copy_rewritten() {
    find tests -path '*/__pycache__/*-pytest-*.pyc' -print0 |
        tar --create --null --no-recursion --files-from=- --ignore-failed-read | tar --extract --directory="$tree" || :
}

plant() {
    "$python" - "$tree" <<'PYTHON'
import pathlib, sys
from tests.fuzz.planted import PLANTED

bug = PLANTED["tcp-header"]
(pathlib.Path(sys.argv[1]) / bug.path).write_text(bug.planted(), encoding="utf-8")
PYTHON
}

# Makes a python for the tests, and for what they start by sys.executable, that has the sanitizers.
# Other programs must not get them, with LD_PRELOAD, from it: some hang. Python's own small blocks
# come from malloc, too, so that what reads past one is seen (but see --short). Python leaks at its
# end by design: leaks are looked for by the fuzz targets instead.
make_python() {
    mkdir -p "$tree/build/site"
    cat >"$sanitized" <<SHELL
#!/bin/sh
LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)\${LD_PRELOAD:+ \$LD_PRELOAD}" exec "$python" "\$@"
SHELL
    chmod 755 "$sanitized"
    cat >"$tree/build/site/sitecustomize.py" <<PYTHON
import os, sys

os.environ.pop("LD_PRELOAD", None)
sys.executable = "$sanitized"
PYTHON
}

# Some tests measure memory: what was freed is kept back only so far.
few=quarantine_size_mb=16
malloc=malloc
under_sanitizers() {
    env PYTHONPATH="$tree/build/site" PYTHONMALLOC=$malloc PYTHONDONTWRITEBYTECODE=1 \
        ZKS_LWIP_SANITIZE=address,undefined \
        ASAN_OPTIONS="detect_leaks=0:log_path=$reports/asan:detect_stack_use_after_return=1:$few" \
        UBSAN_OPTIONS="print_stacktrace=1:log_path=$reports/ubsan" \
        "$sanitized" "$@"
}

# A wrong call must end the process, or the sanitizers are asleep.
check_awake() {
    if (cd "$tree" && under_sanitizers -c '
from zks_lwip._lwip import ffi, lib

lib.zks_ws_mask(ffi.new("uint8_t[10]"), ffi.new("uint8_t[10]"), 4000, b"mask", 0)
') >/dev/null 2>&1 || ! compgen -G "$reports/asan.*" >/dev/null; then
        echo 'tests/sanitize.sh: AddressSanitizer did not see a wrong access.' >&2
        exit 1
    fi
    rm -f "$reports"/*
}

run_pytest() {
    # They are several times slower, and the machine has other work: so is the limit of a test longer.
    (cd "$tree" && under_sanitizers -m pytest -p no:cacheprovider --timeout 900 "$@") || failed=1
    # Also of processes that a test has started, and whose end it did not look at.
    if compgen -G "$reports/*" >/dev/null; then
        say "What the sanitizers have reported"
        head -n 60 "$reports"/*
        failed=1
    fi
}

valgrind_run() {
    valgrind --quiet --error-exitcode=99 --num-callers=30 --suppressions=tests/valgrind.supp "$@"
}

failed=0
if [ "$mode" = valgrind ]; then
    say "The fuzz corpus under valgrind"
    program=$("$python" -c 'from tests.fuzz.native_targets import build; print(build("packets", fuzzer=False))')
    valgrind_run --leak-check=full --show-leak-kinds=definite,possible "$program" tests/fuzz/corpus/packets ||
        failed=1
    say "Tests of the C under valgrind"
    # Fifty times slower, some waits are too short: what memory they use, other tests use, too.
    too_slow='bounded_in_bytes or single_bytes_cost or cancelled_receive_and_send'
    PYTHONMALLOC=malloc PYTHONDONTWRITEBYTECODE=1 valgrind_run "$python" -m pytest -p no:cacheprovider \
        -p no:faulthandler -q --timeout 250 -k "not ($too_slow)" tests/unit/stack tests/unit/carrier/test_masking.py \
        "$@" || failed=1
    exit $failed
fi

say "Building with sanitizers"
copy_tree
if [ "$mode" = canary ]; then plant; fi
(cd "$tree" && ZKS_LWIP_SANITIZE=address,undefined "$python" build_lwip.py build)
(cd "$tree" && "$python" -m compileall -q zks_lwip tests/kits)
copy_rewritten
rm -rf "$reports"
mkdir -p "$reports"
make_python
check_awake

say "Tests under sanitizers"
case $mode in
short)
    # Two at a time: by one it would be what the whole of tests/run.sh waits for in the end.
    export ZKS_TEST_SHORT=1 # see tests/kits/short.py
    quickly=(-q -m 'not slow' -n 2 --dist loadfile --no-loadscope-reorder "${apart[@]/#/--ignore=}")
    run_pytest "${quickly[@]}" "${direct[@]}" "$@"
    # The others take half as long with Python's own allocator, which hides but one thing: a read
    # past a small block of Python's. Those before them give our C blocks of every length.
    malloc=pymalloc
    run_pytest "${quickly[@]}" "${direct[@]/#/--ignore=}" tests/unit "$@"
    say "A short fuzz"
    targets=('packets --seconds 30 --executions 5000' 'datagrams --seconds 10 --executions 10000' 'mask --seconds 3'
        'mux --seconds 10 --executions 20000' 'frames --seconds 10 --executions 3000')
    if ! command -v clang >/dev/null; then
        echo 'clang is not here: only the frames are fuzzed.'
        targets=("${targets[-1]}")
    fi
    # The same inputs each time, nearly: new ones are looked for by hand, lest a change be blamed for others.
    for target in "${targets[@]}"; do
        # shellcheck disable=SC2086 # options, apart
        "$python" -m tests.fuzz $target --seed 1 || failed=1
    done
    ;;
*)
    run_pytest "${apart[@]/#/--ignore=}" "$@"
    ;;
esac
exit $failed
