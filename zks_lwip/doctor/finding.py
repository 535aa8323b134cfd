"""What was found: one line each, with the remedy."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["Finding", "Level", "failed", "noted", "warned", "well"]


class Level(enum.Enum):
    """How bad it is."""

    OK = "ok"
    NOTE = "note"
    """It could not be looked at, or is worth knowing."""
    WARNING = "warning"
    """Something works less well than it could."""
    FAILURE = "failure"
    """Something does not work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    """What was looked at, in a word: ``kernel``, ``worker``, ``token`` …"""
    level: Level
    text: str
    remedy: str = ""
    """What to do; empty where there is nothing to be done."""

    def to_json(self) -> dict[str, str]:
        """Return it as ``doctor --json`` has it."""
        return {
            "name": self.name,
            "level": self.level.value,
            "text": self.text,
            "remedy": self.remedy,
        }


def well(name: str, text: str) -> Finding:
    """Return what is as it should be."""
    return Finding(name, Level.OK, text)


def noted(name: str, text: str, remedy: str = "") -> Finding:
    """Return what is worth knowing, or could not be looked at."""
    return Finding(name, Level.NOTE, text, remedy)


def warned(name: str, text: str, remedy: str) -> Finding:
    """Return what works less well than it could."""
    return Finding(name, Level.WARNING, text, remedy)


def failed(name: str, text: str, remedy: str) -> Finding:
    """Return what does not work."""
    return Finding(name, Level.FAILURE, text, remedy)
