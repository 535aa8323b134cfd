"""Take away from the tests, and from all that they start, what the surroundings have left odd.

Signals that are ignored or blocked, a umask, closed standard descriptors, a proxy in the
environment and the like are inherited; what they do to the product is tested where it is the
subject (tests/netns/test_environment.py), and nowhere by chance.
"""

from __future__ import annotations

import os
import re
import signal
import sys

# Proxies; what git, ssh, systemd and the resolver library read; the width of messages; languages.
_ODD = re.compile(
    r"(?i:(https?|all|ftp|no)_proxy)|GIT_.*|SSH_(CONNECTION|CLIENT|TTY|AUTH_SOCK)|SUDO_.*"
    r"|LISTEN_(FDS|PID|FDNAMES)|NOTIFY_SOCKET|RES_OPTIONS|LOCALDOMAIN|COLUMNS|LINES|POSIXLY_CORRECT"
    r"|CDPATH|BASH_ENV|ENV|GREP_OPTIONS|(FORCE|NO)_COLOR|CLICOLOR.*|LC_.*|LANG|LANGUAGE|TZ"
    r"|ZKS_LWIP_(?!SANITIZE).*|PYTHON(OPTIMIZE|WARNINGS|INSPECT|STARTUP|VERBOSE)"
)
# Configuration of whose home this is: own proxies and servers of curl, aliases and hooks of git.
_NO_CONFIGURATION = {"CURL_HOME": "/nonexistent", "GIT_CONFIG_GLOBAL": os.devnull}
# Python ignores these two itself.
_IGNORED = ("SIGPIPE", "SIGXFSZ")


def make_ordinary() -> None:
    """As a plain login would have it. Twice is harmless."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest: this one
    if sys.platform != "win32":
        _take_signals_back()
    os.umask(0o022)
    for name in [name for name in os.environ if _ODD.fullmatch(name)]:
        del os.environ[name]
    os.environ.update(_NO_CONFIGURATION, LC_ALL="C.UTF-8", TZ="UTC")


def _take_signals_back() -> None:
    kept = {getattr(signal, name) for name in _IGNORED}
    for number in signal.valid_signals() - kept:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    # A shell that runs the tests in the background lets them, and what they start, ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
