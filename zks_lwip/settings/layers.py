"""What several files say together, for one command and one profile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .files import SYSTEM_FILE, SettingsFile, read_source, user_file
from .judge import PROFILE, convert, faults, suggestion
from .keys import CLIENTS, COMMANDS

__all__ = ["FileSettings", "Setting", "read_settings"]

_RIVALS = {"token": "token_file", "token_file": "token"}
"""Of these the one that is given last is in force."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A value, and where it comes from."""

    value: Any
    path: Path
    key: str
    """With its section: ``profile.home.mtu``."""

    def __str__(self) -> str:
        return f"{self.path}: {self.key}"


@dataclass(frozen=True, slots=True)
class FileSettings:
    """Files without faults, the weakest first."""

    sources: tuple[SettingsFile, ...]
    looked_for: tuple[Path, ...]
    """All files that were, or would have been, read."""
    notes: tuple[str, ...] = ()
    """What has to be told: a file that was left out, or that a group may read."""

    @property
    def profiles(self) -> list[str]:
        """The names of all profiles."""
        return sorted({name for source in self.sources for name in source.table.get(PROFILE, {})})

    def select(
        self, command: str, profile: str | None, environ: Mapping[str, str]
    ) -> dict[str, Setting]:
        """Return what the files say for a command: by key, with where it was said last.

        A later file beats an earlier one, the command's section beats what stands outside of it,
        and a profile beats all that is in no profile, whichever file has it.

        :param command: one of :data:`~zks_lwip.settings.keys.COMMANDS`.
        :param environ: HOME in it is what ``~`` stands for (not for root).
        :raises ConfigError: there is no such profile.
        """
        if profile is not None and profile not in self.profiles:
            raise ConfigError(self._no_profile(profile))
        found: dict[str, Setting] = {}
        for name in (None,) if profile is None else (None, profile):
            for source in self.sources:
                for key, value, where in _said(source, command, name):
                    value = convert(value, COMMANDS[command][key], source.path, environ)
                    found.pop(_RIVALS.get(key, ""), None)
                    found[key] = Setting(value, source.path, f"{where}.{key}".lstrip("."))
        return found

    def _no_profile(self, name: str) -> str:
        text = f"there is no profile {name!r}"
        if hint := suggestion(name, self.profiles):
            return text + hint
        if self.profiles:
            return f"{text}: there are {', '.join(self.profiles)}"
        looked = " or ".join(map(str, self.looked_for)) or "any file"
        return f"{text}: write a section [{PROFILE}.{name}] into {looked}"


def _said(
    source: SettingsFile, command: str, profile: str | None
) -> Iterator[tuple[str, Any, str]]:
    """Yield what one file says for a command, outside of all profiles or in one of them."""
    table, where = source.table, ""
    if profile is not None:
        table, where = table.get(PROFILE, {}).get(profile, {}), f"{PROFILE}.{profile}"
    section = table.get(command)
    if command in CLIENTS:
        for key, value in table.items():
            if key in COMMANDS[command] and not isinstance(value, dict):
                yield key, value, where
    if isinstance(section, dict):
        for key, value in section.items():
            yield key, value, f"{where}.{command}".lstrip(".")


def read_settings(
    file: Path | None,
    environ: Mapping[str, str],
    *,
    system: Path = SYSTEM_FILE,
    judged: bool = True,
) -> FileSettings:
    """Read the files of settings.

    :param file: read this one in place of the machine's and the user's.
    :param environ: XDG_CONFIG_HOME, HOME and SUDO_UID of it are heeded.
    :param system: the machine's file. If this user may not read it, that is noted.
    :param judged: False: what is wrong with keys and types is left to the caller to look for.
    :raises ConfigError: a file cannot be read, or something in it is wrong.
    """
    if file is not None:
        paths = [file]
    else:
        own = user_file(environ)
        paths = [system, *([] if own is None else [own])]
    sources = []
    notes: list[str] = []
    for path in paths:
        try:
            source = read_source(
                path, required=file is not None, environ=environ, warn=notes.append
            )
        except PermissionError as error:
            notes.append(f"{path} is not in force: {error.strerror}")
            continue
        if source is not None:
            if judged and (fault := next(faults(source), None)):
                raise ConfigError(fault)
            sources.append(source)
    return FileSettings(tuple(sources), tuple(paths), tuple(notes))
