"""Which files of the host a captured command must not see: decided here, mounted by zks_nsrun.

Name look-ups leave a network namespace through unix sockets, which do not know such namespaces:
nscd is asked before anything else, nss-resolve and nss-mdns speak to systemd-resolved and avahi,
and every program may ask resolved over D-Bus. So their sockets are covered, and resolv.conf and
nsswitch.conf leave nothing but /etc/hosts, what asks no server, and DNS, which goes through the
TUN.

A directory is covered either by a tmpfs over it, or by leaving it out of a mirrored parent. The
second also holds when its service is restarted: removing a directory in the host's namespace takes
away what is mounted on it in ours, and the new one would be bare. The mirror is for /run only, and
not as root, who may want to write there.
"""

from __future__ import annotations

import enum
import os
import pwd
import re
from dataclasses import dataclass
from pathlib import Path

from ..resolv_conf import ResolvConf
from .ssh_config import included_files

__all__ = ["Mount", "MountKind", "isolation", "names_by_dns_only", "own_copies", "resolv_conf"]

# Below /run (or an old-fashioned /var/run): sockets of services that resolve names.
_SOCKETS = ("nscd", "avahi-daemon", "dbus", "mdnsd")
_RESOLVED = "systemd/resolve"
_SSSD = "var/lib/sss/pipes"
# Programs read these two directly, too.
_RESOLVED_FILES = ("resolv.conf", "stub-resolv.conf")
_RESOLV_CONF = "etc/resolv.conf"
# openSUSE keeps the default in /usr/etc.
_NSSWITCH = ("etc/nsswitch.conf", "usr/etc/nsswitch.conf")


class MountKind(enum.IntEnum):
    """As ``enum zks_nsrun_mount_kind``."""

    FILE = 0
    COVER = 1
    MIRROR = 2
    PUT = 3


@dataclass(frozen=True, slots=True)
class Mount:
    """One operation of zks_nsrun.h; ``content`` of a mirror: the names left out, one a line."""

    kind: MountKind
    path: str
    content: str = ""
    mode: int = 0o644


def resolv_conf(nameserver: str, host: ResolvConf | None = None) -> str:
    """Return the command's /etc/resolv.conf: one name server, the host's search domains."""
    return f"# Names are resolved through the tunnel.\n{(host or ResolvConf()).text(nameserver)}"


def names_by_dns_only(nsswitch: str) -> str:
    """Return an nsswitch.conf(5) with ``hosts: files dns``, otherwise unchanged.

    nss-myhostname(8) stays where it was: it asks no server for this machine's own name. It comes
    before DNS, lest that name be asked there first.
    """

    def line(service: str = "") -> str:
        return f"hosts:          files {service}dns"

    def replace(match: re.Match[str]) -> str:
        services = match[1].partition("#")[0].split()
        return line("myhostname " if "myhostname" in services else "")

    changed, count = re.subn(r"(?m)^[ \t]*hosts[ \t]*:(.*)$", replace, nsswitch)
    return changed if count else f"{nsswitch.rstrip()}\n{line()}\n"


def own_copies(root: Path = Path("/")) -> list[Mount]:
    """Return what a user namespace would make unusable, as the caller's own; mount it last."""
    files = included_files(root)
    mounts = [Mount(MountKind.FILE, f.path, os.fsdecode(f.content), f.mode) for f in files]
    return mounts + _user_database(root)


def _user_database(root: Path) -> list[Mount]:
    """Return the caller's own entry, where only a covered service knows it (sssd)."""
    path = Path(os.path.realpath(root / "etc/passwd"))
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        entry = pwd.getpwuid(os.getuid())
    except (OSError, KeyError):
        return []  # it is as unknown outside
    if any(line.split(":")[2:3] == [str(entry.pw_uid)] for line in text.splitlines()):
        return []
    line = ":".join(map(str, (entry.pw_name, "x", *entry[2:])))
    return [Mount(MountKind.FILE, str(path), f"{text.rstrip()}\n{line}\n")]


def isolation(resolv: str, *, mirror_run: bool, root: Path = Path("/")) -> list[Mount]:
    """Return what to mount, in this order, so that names resolve through the tunnel only.

    :param resolv: the text of the new resolv.conf.
    :param mirror_run: cover by a mirrored /run.
    :param root: where the file system is looked at.
    """
    return [*_sockets(resolv, mirror_run, root), *_files(resolv, root)]


def _sockets(resolv: str, mirror_run: bool, root: Path) -> list[Mount]:
    mounts = []
    run = root / "run"
    if mirror_run and run.is_dir():
        mounts.append(Mount(MountKind.MIRROR, str(run), "\n".join(_SOCKETS)))
        covered = [run / _RESOLVED]
    else:
        covered = [run / name for name in (*_SOCKETS, _RESOLVED)]
    if not (root / "var/run").is_symlink():
        covered += [root / "var/run" / name for name in (*_SOCKETS, _RESOLVED)]
    covered.append(root / _SSSD)
    for path in covered:
        if not _is_directory(path):
            continue
        mounts.append(Mount(MountKind.COVER, str(path)))
        if path.match(_RESOLVED):
            files = [str(path / name) for name in _RESOLVED_FILES]
            mounts += [Mount(MountKind.PUT, name, resolv) for name in files]
    return mounts


def _files(resolv: str, root: Path) -> list[Mount]:
    mounts = []
    path = root / _RESOLV_CONF
    target = Path(os.path.realpath(path))
    if not target.is_file():
        # Missing or dangling: there is nothing to mount on, so the directory is made anew.
        mounts.append(Mount(MountKind.MIRROR, str(path.parent), path.name))
        mounts.append(Mount(MountKind.PUT, str(path), resolv))
    elif not (target.parent.match(_RESOLVED) and target.name in _RESOLVED_FILES):
        mounts.append(Mount(MountKind.FILE, str(target), resolv))
    for name in _NSSWITCH:
        target = Path(os.path.realpath(root / name))
        if target.is_file():
            text = target.read_text(encoding="utf-8", errors="surrogateescape")
            mounts.append(Mount(MountKind.FILE, str(target), names_by_dns_only(text)))
    return mounts


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except PermissionError:
        # Then the command, which has the same uid, cannot reach it either.
        return False
