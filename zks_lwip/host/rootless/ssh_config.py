"""Find OpenSSH's configuration files that a user namespace would make unusable: root's.

ssh(1) refuses a file that is included, and the user's own ``~/.ssh/config``, unless root or the
user owns it. In a user namespace that maps the user alone, root's files belong to the overflow id
("nobody"), and no mapping mends that: only root may map root's own id (newuidmap maps the ids of
/etc/subuid, which are others). So the command gets copies that the user owns. What ssh refuses
outside (a file of a third user, one that others may write) is refused inside, too.

ssh is the only common program that asks this of files it is not itself the owner of. Others (git,
gpg, tmux) want the user's own, which is mapped; sudo and its kind need an id that is not there.
"""

from __future__ import annotations

import glob
import itertools
import logging
import os
import pwd
import re
import shlex
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MAX_BYTES", "MAX_FILES", "MAX_FILE_BYTES", "ConfigFile", "included_files"]

_log = logging.getLogger(__name__)

# The second is openSUSE's: the vendor's defaults.
_SYSTEM = ("etc/ssh/ssh_config", "usr/etc/ssh/ssh_config")
# Includes that are not absolute start here, in a system's configuration.
_FOLDER = "etc/ssh"
# As READCONF_MAX_DEPTH of OpenSSH.
_MAX_DEPTH = 16
MAX_FILES = 256
"""Files that are read: far more than any system has, and what /etc/ssh or a home is made to hold
must not cost ``run`` its memory or seconds. What is beyond is not copied."""
MAX_FILE_BYTES = 256 << 10
"""Bytes of a file that is copied."""
MAX_BYTES = 1 << 20
"""Bytes of all files after which no other one is read."""
# The copy passes through C as a string, and a configuration has no NUL.
_NUL = b"\0"
_TOKEN = re.compile(r"%(.)")
_VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A file to be shown as the user's: ``path`` has no symbolic link in it."""

    path: str
    content: bytes
    mode: int
    """Permission bits."""


def included_files(
    root: Path = Path("/"),
    *,
    home: Path | None = None,
    owner: int = 0,
    caller: int | None = None,
) -> list[ConfigFile]:
    """Return the files of ``owner`` that ssh reads for us and checks, each once.

    :param root: where the system's configuration is looked for.
    :param home: the user's home directory; None: that of the user database.
    :param owner: user id whose files are copied.
    :param caller: user id that ssh runs as, whose own files need no copy; None: this process's.
    """
    return _Search(root, home or _home(), owner, os.geteuid() if caller is None else caller).files()


class _Search:
    """One walk along the includes, within the limits."""

    def __init__(self, root: Path, home: Path | None, owner: int, caller: int) -> None:
        self._folder = root / _FOLDER
        self._system = [root / name for name in _SYSTEM]
        self._home = home
        self._owner = owner
        self._caller = caller
        self._seen: set[tuple[str, bool]] = set()
        self._found: dict[str, ConfigFile] = {}
        self._bytes = 0
        self._told = False

    def files(self) -> list[ConfigFile]:
        for path in self._system:
            self._visit(str(path), users=False, checked=False, depth=0)
        if self._home is not None:
            self._visit(str(self._home / ".ssh/config"), users=True, checked=True, depth=0)
        return list(self._found.values())

    def _visit(self, path: str, *, users: bool, checked: bool, depth: int) -> None:
        path = os.path.realpath(path)
        if depth > _MAX_DEPTH or (path, users) in self._seen:
            return
        if len(self._seen) >= MAX_FILES or self._bytes >= MAX_BYTES:
            if not self._told:
                self._told = True
                _log.warning(
                    "there is more OpenSSH configuration than `run` copies (%d files, %d KiB): "
                    "ssh may refuse %s and more",
                    MAX_FILES, MAX_BYTES >> 10, path,
                )  # fmt: skip
            return
        self._seen.add((path, users))
        if (read := _read(path)) is None:
            return
        status, content = read
        self._bytes += len(content)
        if checked and status.st_uid == self._owner != self._caller and _NUL not in content:
            self._found.setdefault(path, ConfigFile(path, content, stat.S_IMODE(status.st_mode)))
        for pattern in _includes(os.fsdecode(content)):
            for found in itertools.islice(self._matches(pattern, users), MAX_FILES):
                self._visit(found, users=users, checked=True, depth=depth + 1)

    def _matches(self, pattern: str, users: bool) -> Iterator[str]:
        """Yield what an argument of Include names (ssh_config(5)); unknown tokens match all."""
        pattern = _VARIABLE.sub(lambda match: os.environ.get(match[1], ""), pattern)
        values = {"%": "%", "d": str(self._home), "u": _user(), "i": str(os.getuid())}
        pattern = _TOKEN.sub(lambda match: values.get(match[1], "*"), pattern)
        if users:
            pattern = os.path.expanduser(pattern)
            base = (self._home or Path()) / ".ssh"
        else:
            base = self._folder
        return glob.iglob(os.path.join(base, pattern))


def _includes(text: str) -> Iterator[str]:
    """Yield the arguments of every Include, whatever Host or Match it stands below."""
    for line in text.splitlines():
        found = re.match(r"\s*include(?:\s*=\s*|\s+)(.*)", line, re.IGNORECASE)
        if found is None:
            continue
        try:
            yield from shlex.split(found[1], comments=True)
        except ValueError:
            continue  # a quote that is not closed: ssh refuses the whole file


def _read(path: str) -> tuple[os.stat_result, bytes] | None:
    """Read a regular file of bounded size, if this process may: ssh cannot read more."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # a FIFO would wait for its writer
            return None
        with open(path, "rb", opener=_open_at_once) as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError:
        return None  # so it is for ssh
    if len(content) > MAX_FILE_BYTES:
        _log.warning("%s is too large to be copied for `run`: ssh may refuse it", path)
        return None
    return status, content


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def _entry() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(os.getuid())
    except KeyError:
        return None


def _home() -> Path | None:
    entry = _entry()
    return None if entry is None else Path(entry.pw_dir)


def _user() -> str:
    entry = _entry()
    return "*" if entry is None else entry.pw_name
