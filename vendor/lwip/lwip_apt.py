"""lwIP from the source package of Debian or Ubuntu, by apt, in private directories.

The system's own files stay untouched.
Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

APT_SECONDS = 120
CONNECT_SECONDS = 5


class AptError(Exception):
    """This origin cannot give lwIP; the message says why."""


class Entry(NamedTuple):
    """One archive that the system's apt is configured with."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str  # a path, an embedded key (continuation lines kept) or ""
    trusted: str  # "yes": the administrator waives signatures; "" otherwise


def parse_deb822(text: str) -> Iterator[Entry]:
    """The archives of a ``.sources`` file (sources.list(5)); disabled ones are left out."""
    for paragraph in re.split(
        r"\n[ \t]*\n", "\n".join(x for x in text.splitlines() if not x.startswith("#"))
    ):
        fields: dict[str, str] = {}
        name = ""
        for line in paragraph.splitlines():
            if line[:1] in (" ", "\t") and name:
                fields[name] += "\n" + line
            elif ":" in line:
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        if not fields.get("uris") or fields.get("enabled", "yes").lower() in (
            "no",
            "false",
            "off",
            "0",
        ):
            continue
        yield Entry(
            tuple(fields["uris"].split()),
            tuple(fields.get("suites", "").split()),
            tuple(fields.get("components", "").split()),
            fields.get("signed-by", ""),
            fields.get("trusted", ""),
        )


def parse_one_line(text: str) -> Iterator[Entry]:
    """The archives of a ``sources.list`` file in its one-line format (sources.list(5))."""
    for raw in text.splitlines():
        line = raw.partition("#")[0].strip()
        match = re.fullmatch(r"deb(?:-src)?\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)((?:\s+\S+)*)", line)
        if match:
            options = dict(x.partition("=")[::2] for x in (match[1] or "").split())
            signed_by = options.get("signed-by", "").replace(",", " ")
            trusted = options.get("trusted", "")
            yield Entry((match[2],), (match[3],), tuple(match[4].split()), signed_by, trusted)


def system_entries(etc: Path) -> list[Entry]:
    """All archives that apt knows by the files in ``etc`` (``/etc/apt``)."""
    entries: list[Entry] = []
    for path in [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]:
        if path.suffix in (".list", ".sources") and path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            entries += parse_deb822(text) if path.suffix == ".sources" else parse_one_line(text)
    return entries


def os_release(path: Path) -> dict[str, str]:
    """The fields of os-release(5), or none where there is no such file."""
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    fields = (line.partition("=")[::2] for line in lines if not line.startswith("#"))
    return {name: value.strip().strip("\"'") for name, value in fields}


def archive_entry(entries: list[Entry], name: str, codename: str, component: str) -> Entry | None:
    """The entry of the distribution's main archive, told from add-on archives by URI and suite.

    Only its URIs and key matter: the suite that carries the pinned version is another one.
    """
    uri = re.compile(rf"/{name}(-ports)?(\.list)?/?$")

    def doubts(entry: Entry) -> tuple[bool, bool]:
        return not any(uri.search(x) for x in entry.uris), codename not in entry.suites

    usable = [x for x in entries if {"main", component} & set(x.components) and not all(doubts(x))]
    return min(usable, key=doubts, default=None)


def _run(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=APT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise AptError(f"{command[0]} took longer than {APT_SECONDS} s") from None
    if done.returncode != 0:
        lines = [x.strip() for x in done.stderr.splitlines() if x.startswith(("E:", "Err", "W:"))]
        raise AptError("; ".join(lines[-3:]) or f"{command[0]} ended with status {done.returncode}")


def fetch(pinned: dict[str, Any], folder: Path, etc: Path = Path("/etc")) -> Path:
    """Download the pinned source archive into ``folder`` and return its path; AptError: why not.

    ``pinned`` is the ``[apt]`` table of lwip.toml. Works as root and without.
    """
    if shutil.which("apt-get") is None:
        raise AptError("there is no apt-get on this machine")
    system = os_release(etc / "os-release")
    names = [system.get("ID", ""), *system.get("ID_LIKE", "").split()]
    name = next((x for x in names if isinstance(pinned.get(x), dict)), None)
    if name is None:
        raise AptError("this distribution is neither Debian nor Ubuntu")
    component = pinned[name]["component"]
    codename = system.get("UBUNTU_CODENAME") or system.get("VERSION_CODENAME", "")
    entry = archive_entry(system_entries(etc / "apt"), name, codename, component)
    if entry is None:
        raise AptError(f"no archive of {name} is configured in {etc}/apt")
    failures = []
    for suite in pinned[name]["suites"]:
        try:
            return _fetch_suite(pinned, entry, suite, component, folder / suite)
        except AptError as error:
            failures.append(f"{suite}: {error}")
    raise AptError("; ".join(failures) or f"no suite of {name} is known to carry it")


def _fetch_suite(
    pinned: dict[str, Any], entry: Entry, suite: str, component: str, folder: Path
) -> Path:
    for part in ("lists/partial", "cache/archives/partial", "state"):
        (folder / part).mkdir(parents=True)
    sources = folder / "private.sources"  # apt takes the format from the name
    options = f"Signed-By: {entry.signed_by}\n" if entry.signed_by else ""
    options += f"Trusted: {entry.trusted}\n" if entry.trusted else ""
    sources.write_text(
        f"Types: deb-src\nURIs: {' '.join(entry.uris)}\nSuites: {suite}\n"
        f"Components: {component}\n{options}",
        encoding="utf-8",
    )
    command = [
        "apt-get",
        "-q",
        f"-oDir::Etc::sourcelist={sources}",
        "-oDir::Etc::sourceparts=/dev/null",
        f"-oDir::State={folder}/state",
        f"-oDir::State::lists={folder}/lists",
        f"-oDir::Cache={folder}/cache",
        "-oAPT::Sandbox::User=root",  # the private directories belong to whoever builds
        "-oAcquire::Languages=none",
        "-oAcquire::Retries=0",
        f"-oAcquire::http::Timeout={CONNECT_SECONDS}",
        f"-oAcquire::https::Timeout={CONNECT_SECONDS}",
    ]
    _run([*command, "-oAPT::Update::Error-Mode=any", "update"], folder)
    _run(
        [*command, "source", "--download-only", "--tar-only", "-t", suite, pinned["package"]],
        folder,
    )
    archive = folder / str(pinned["file"])
    if not archive.is_file():
        found = ", ".join(x.name for x in folder.glob(f"{pinned['package']}_*")) or "nothing"
        raise AptError(f"it carries {found}, not {pinned['file']}")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != pinned["sha256"]:
        raise AptError(f"{pinned['file']} has the SHA-256 {digest}, not {pinned['sha256']}")
    return archive
