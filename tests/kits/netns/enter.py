"""Enter a network namespace, arrange a private mount namespace, change user, then become a command.

    python -I -S enter.py [--net PATH] [--bind SOURCE TARGET]... [--expose DIR]... [--run-tmpfs]
                          [--etc DIR] [--sysfs] [--cgroups] [--user UID] -- CMD ARGS...

Runs as root, imports only the standard library, and ends in ``execvp``: the process id stays, so
that the process that started this can signal CMD. All mounts are private to the command.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def set_net(path: str) -> None:
    """Move the calling thread into the network namespace at ``path``."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(fd, CLONE_NEWNET), f"setns {path}")
    finally:
        os.close(fd)


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    encode = [None if text is None else text.encode() for text in (source, target, kind, data)]
    result = _libc.mount(encode[0], encode[1], encode[2], ctypes.c_ulong(flags), encode[3])
    _check(result, f"mount {source} on {target}")


def _expose(directory: str) -> None:
    """Make ``directory`` reachable for other users although a parent (say /root) is closed to them.

    The closed parent is covered, for this command only, by an open tmpfs that holds just the path.
    """
    path = Path(directory).resolve()
    closed = next((p for p in reversed(path.parents) if not p.stat().st_mode & 0o001), None)
    if closed is None:
        return
    held = os.open(path, os.O_PATH)
    try:
        _mount("tmpfs", str(closed), "tmpfs", 0, "mode=0755")
        path.mkdir(parents=True)
        for parent in (path, *path.parents):
            if parent == closed:
                break
            parent.chmod(0o755)
        _mount(f"/proc/self/fd/{held}", str(path), None, MS_BIND | MS_REC)
    finally:
        os.close(held)


def main(argv: list[str]) -> None:
    options, command = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    items = iter(options)
    user: int | None = None
    net: str | None = None
    steps: list[tuple[str, ...]] = []
    for item in items:
        if item == "--net":
            net = next(items)
        elif item == "--user":
            user = int(next(items))
        elif item == "--bind":
            steps.append((item, next(items), next(items)))
        elif item in ("--expose", "--etc"):
            steps.append((item, next(items)))
        elif item in ("--sysfs", "--run-tmpfs", "--cgroups"):
            steps.append((item,))
        else:
            raise SystemExit(f"enter.py: unknown option {item}")
    if net is not None:
        set_net(net)
    if steps:
        _check(_libc.unshare(CLONE_NEWNS), "unshare")
        _mount("none", "/", None, MS_REC | MS_PRIVATE)
    for step in steps:
        if step[0] == "--bind":
            _mount(step[1], step[2], None, MS_BIND)
        elif step[0] == "--expose":
            _expose(step[1])
        elif step[0] == "--etc":  # files that the machine need not have
            _mount("overlay", "/etc", "overlay", 0, f"lowerdir={step[1]}:/etc")
        elif step[0] == "--run-tmpfs":
            _mount("tmpfs", "/run", "tmpfs", 0, "mode=0755")
            Path("/run/sshd").mkdir(mode=0o755)
        elif step[0] == "--cgroups":
            _mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0)
        else:
            _check(_libc.umount2(b"/sys", MNT_DETACH), "umount /sys")
            _mount("sysfs", "/sys", "sysfs", 0)
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    os.environ.pop("LD_PRELOAD", None)  # of a sanitizer: for us, not for the command
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
