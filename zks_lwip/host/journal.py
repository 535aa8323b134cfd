"""The journal: what has been changed on a host, written down before it is changed.

One file per network namespace, ``/run/zks_lwip/net-INODE.journal`` (0600; ``net-0.journal`` where a
system has none): a line of JSON that says which process and where, then one per step. The writer
holds a lock on it, so whether it lives is seen without looking at process ids. A line that is torn
was never acted on.

Room for later lines is taken at the start, as zeros at the end, so that a disk that other programs
fill meanwhile does not matter.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import HostError, PrivilegeError
from ..net.netns import namespace_id
from .locked_file import FLAGS, REPLACES, lock, write_at
from .plan.step import Step, from_json, to_json
from .programs import run_program
from .state_directory import make_state_directory

if TYPE_CHECKING:
    from .plan.state import Leftover

__all__ = [
    "NO_RECORD",
    "Journal",
    "JournalError",
    "Record",
    "journal_path",
    "parse",
    "read_journal",
    "read_leftover",
    "running",
]

VERSION = 1

# Where Windows counts its starts.
_BOOT_KEY = r"SYSTEM\CurrentControlSet\Control\Session Manager\Memory Management\PrefetchParameters"

RESERVE = 32768
"""Bytes for later lines: some 300 rules, of subnets that come and go; more are asked for then."""


class JournalError(HostError):
    """A journal cannot be written: nothing that only it would know may be changed."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a journal says."""

    version: int
    """0: it cannot be read."""
    boot: str
    """Of which boot of the machine; after another one nothing of it is left."""
    netns: str | None
    """The namespace's name, None for the one that the writer was in."""
    pid: int
    tun: str
    cookie: int = 0
    """Of the namespace, whose inode number may have been another's; 0: not known."""
    steps: tuple[Step, ...] = ()
    problems: tuple[str, ...] = ()
    """What could not be read."""

    def is_of(self, cookie: int) -> bool:
        """Return whether it is about the namespace with that cookie, as far as one can tell."""
        return not cookie or not self.cookie or cookie == self.cookie

    def may_know(self, kind: type[Step]) -> bool:
        """Return whether its writer has done such a step, or what it says cannot be read."""
        return bool(self.problems) or any(isinstance(step, kind) for step in self.steps)

    def leftover(self) -> Leftover:
        """Return the steps as those of an instance that died."""
        from .plan.state import Leftover  # here: what only asks does without

        return Leftover(self.pid, self.steps)


NO_RECORD = Record(0, "", None, 0, "")
"""What is known without a journal."""


def journal_path(directory: Path, inode: int) -> Path:
    """Return the path of the journal of the network namespace with that inode."""
    return directory / f"net-{inode}.journal"


def boot_id() -> str:
    """Return what changes with every boot of the machine."""
    if sys.platform == "darwin":
        return run_program(["sysctl", "-n", "kern.bootsessionuuid"]).strip()
    if sys.platform == "win32":
        import winreg

        try:
            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, _BOOT_KEY) as key:
                return str(winreg.QueryValueEx(key, "BootId")[0])
        except FileNotFoundError:  # it is the prefetcher's, which may be off
            from .windows.boot import started

            return started()
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def parse(text: str) -> Record:
    """Read a journal, as much of it as can be read; never raises for its contents."""
    lines = text.rstrip("\0").split("\n")
    head = _object(lines[0]) or {}
    version, pid = head.get("zks_lwip_journal"), head.get("pid")
    if version != VERSION or type(pid) is not int:
        what = f"of version {version}" if "zks_lwip_journal" in head else "unreadable"
        return Record(0, "", None, 0, "", problems=(f"the journal is {what}",))
    steps, problems = [], []
    for number, line in enumerate(lines[1:], 2):
        if not line:
            continue
        try:
            steps.append(from_json(_object(line)))
        except (ValueError, RecursionError):
            # The last line was torn by the death of its writer, before the step was done.
            if number < len(lines):
                problems.append(f"line {number} of the journal is unreadable")
    netns = head.get("netns")
    return Record(
        version=VERSION,
        boot=str(head.get("boot", "")),
        netns=netns if isinstance(netns, str) else None,
        pid=pid,
        tun=str(head.get("tun", "")),
        cookie=cookie if type(cookie := head.get("cookie")) is int else 0,
        steps=tuple(steps),
        problems=tuple(problems),
    )


def _object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def read_journal(path: Path) -> str | None:
    """Return the text of a journal; None where there is none, or a directory bears its name.

    :raises PermissionError: it may not be read.
    """
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def read_leftover(directory: Path) -> Leftover | None:
    """Return what the journal of this system's only namespace says that a dead instance has left.

    :returns: None: nothing since the machine has started, or it is not for us to read.
    """
    text = None
    with contextlib.suppress(PermissionError):
        # (Not root: then nothing can be changed, and the first step will say so.)
        text = read_journal(journal_path(directory, namespace_id(None)))
    record = parse(text) if text else None
    return record.leftover() if record and record.version and record.boot == boot_id() else None


def running(path: Path) -> bool:
    """Return whether an instance that lives holds this journal.

    :raises PrivilegeError: the journal may not be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | FLAGS)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError as error:
        raise PrivilegeError(f"cannot read {path}: {error.strerror}; run it as root") from error
    try:
        lock(fd, shared=True)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


class Journal:
    """The journal of one network namespace, open and locked: there is one writer.

    :param directory: where journals are.
    :param inode: of the namespace.
    :param cookie: of the namespace: what is in the journal about another one, which has gone, does
        not count; 0: not known.
    :param reserve: bytes of room that are taken at once.
    :param replaces: another file can take the place of the one that is open.
    :raises HostError: another instance lives in this namespace.
    :raises JournalError: the file cannot be used.
    """

    def __init__(
        self,
        directory: Path,
        inode: int,
        cookie: int = 0,
        *,
        reserve: int = RESERVE,
        replaces: bool = REPLACES,
    ) -> None:
        self._cookie = cookie
        self._reserve = reserve
        self._replaces = replaces
        self.path = journal_path(directory, inode)
        self._fd = _open_locked(self.path)
        with open(os.dup(self._fd), "rb") as file:
            data = file.read()
        self._text = data.rstrip(b"\0").decode(errors="replace")
        self._end, self._room = len(data.rstrip(b"\0")), len(data)

    @property
    def record(self) -> Record | None:
        """What the journal said when it was opened; None: nothing about this namespace."""
        if not self._text:
            return None
        record = parse(self._text)
        other = record.boot != boot_id() or not record.is_of(self._cookie)
        return None if record.version and other else record

    def begin(self, netns: str | None, tun: str) -> None:
        """Say whose journal it is. Steps of an instance that died stay in it, before the new ones.

        :param netns: the namespace's name; None for the one of this thread.
        :param tun: the interface's name.
        :raises JournalError: there is no room.
        """
        record = self.record
        head = {
            "zks_lwip_journal": VERSION,
            "boot": boot_id(),
            "netns": netns,
            "cookie": self._cookie,
            "pid": os.getpid(),
            "tun": tun,
        }
        old = [] if record is None else [to_json(step) for step in record.steps]
        text = "".join(json.dumps(line) + "\n" for line in (head, *old)).encode()
        if not self._replaces:
            self._rewrite(text)
            return
        # A new file takes the old one's place in one moment, with our lock on it.
        new, fd = f"{self.path}.new", -1
        try:
            fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | FLAGS, 0o600)
            lock(fd, wait=True)
            _write(fd, text + bytes(self._reserve), 0)
            os.rename(new, self.path)
        except BaseException as error:
            if fd >= 0:
                os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink(new)  # or what little it has would be missing elsewhere
            if isinstance(error, OSError):
                raise _unwritable(self.path, error) from error
            raise
        os.close(self._fd)
        self._fd, self._end, self._room = fd, len(text), len(text) + self._reserve

    def _rewrite(self, text: bytes) -> None:
        """Write a new text over the old one: where the writer dies half-way, none can be read, and
        what bears our name is taken down without it.
        """
        try:
            _write(self._fd, text + bytes(max(self._reserve, self._room - len(text))), 0)
        except OSError as error:
            raise _unwritable(self.path, error) from error
        self._room = max(len(text) + self._reserve, self._room)
        self._end = len(text)

    def append(self, step: Step) -> None:
        """Write down a step that is about to be done.

        :raises JournalError: there is no room for it; the journal is as before.
        """
        line = (json.dumps(to_json(step)) + "\n").encode()
        try:
            if self._end + len(line) > self._room:
                _write(self._fd, bytes(len(line) + self._reserve), self._room)
                self._room += len(line) + self._reserve
            _write(self._fd, line, self._end)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._room)
            raise _unwritable(self.path, error) from error
        self._end += len(line)

    def finish(self) -> None:
        """Empty the journal, as everything has been undone, and remove it where that is allowed."""
        os.ftruncate(self._fd, 0)
        if not self._replaces:
            # Windows removes no file that is open: not ours, nor that of who has come meanwhile.
            self.close()
        # Without privileges the directory is not ours any more; an empty journal says the same.
        with contextlib.suppress(PermissionError, FileNotFoundError):
            os.unlink(self.path)
        self.close()

    def close(self) -> None:
        """Close the file and unlock it; what it says stays. Twice is harmless."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _open_locked(path: Path) -> int:
    try:
        make_state_directory(path.parent)
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | FLAGS, 0o600)
            try:
                lock(fd)
                if os.path.exists(path) and os.path.samestat(os.fstat(fd), os.stat(path)):
                    return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)  # it was replaced or removed before we had the lock: the new one, then
    except BlockingIOError:
        raise HostError(_in_use(path)) from None
    except PermissionError as error:
        raise PrivilegeError(
            f"cannot write {path}: {error.strerror}; `connect` needs root or CAP_NET_ADMIN and "
            "this directory; `run -- COMMAND` needs neither"
        ) from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise JournalError(f"cannot use the journal {path}: it is a symbolic link") from error
        raise _unwritable(path, error) from error


def _write(fd: int, data: bytes, offset: int) -> None:
    """Write all of it there.

    :raises OSError: it cannot be written whole.
    """
    while data:
        done = write_at(fd, data, offset)
        data, offset = data[done:], offset + done


def _unwritable(path: Path, error: OSError) -> JournalError:
    advice = {
        errno.ENOSPC: f"; make room (`df -h {path.parent}`, `df -i {path.parent}`)",
        errno.EDQUOT: "; make room, or have the quota raised",
        errno.EROFS: f"; have {path.parent} mounted writable",
    }
    return JournalError(
        f"cannot write the journal {path}, without which nothing could be undone: "
        f"{error.strerror}{advice.get(error.errno or 0, '')}"
    )


def _in_use(path: Path) -> str:
    text = path.read_text(encoding="utf-8", errors="replace")
    record = parse(text)
    who = f" (process {record.pid}, {record.tun})" if record.version else ""
    return (
        f"another instance runs in this network namespace already{who}; stop it first "
        "(`zks-lwip disconnect`)"
    )
