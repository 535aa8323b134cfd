"""What a line of the token file grants besides a way in: limits of its own, and for how long.

After name and token: ``rate=BYTES`` a second in either direction, ``streams=N``, ``sessions=N``,
``expires=DATE``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

__all__ = ["MIN_RATE", "UNLIMITED", "Grant", "is_option", "mistaken_option", "parse_grant"]

MIN_RATE = 8_000
"""Bytes a second: below it a single DNS answer or keystroke would be late by seconds."""
_MAX_RATE = 10**12
_RATE = re.compile(r"(\d{1,15})([kMG]?)")
_LOOKS_LIKE_OPTION = re.compile(r"[A-Za-z][A-Za-z_-]{0,15}=[^=].*")
_FACTORS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}


@dataclass(frozen=True, slots=True)
class Grant:
    """What one token may do; None: what all may."""

    rate: int | None = None
    """Bytes a second of TCP and UDP payload, up and down each, over all its sessions."""
    streams: int | None = None
    """Open TCP streams."""
    sessions: int | None = None
    """Sessions at a time."""
    expires: float | None = None
    """When it ends, in seconds since 1970."""

    @property
    def limited(self) -> bool:
        """Whether it has limits of its own, that hold for all its sessions together."""
        return not (self.rate is self.streams is self.sessions is None)

    def expired(self, now: float) -> bool:
        """Return whether it has ended.

        :param now: seconds since 1970.
        """
        return self.expires is not None and now >= self.expires


UNLIMITED = Grant()


def is_option(word: str) -> bool:
    """Return whether a word is one of ``key=value``, and so neither name nor token."""
    key, equals, _ = word.partition("=")
    return bool(equals) and key.lower() in _PARSERS


def mistaken_option(word: str) -> str | None:
    """Return what is wrong with a word that looks like ``key=value`` of a key that there is not;
    None: it does not. A token in base64 has ``=`` at its end only.
    """
    if _LOOKS_LIKE_OPTION.fullmatch(word) is None or is_option(word):
        return None
    return f"there is no such limit{_suggestion(word)}"


def _suggestion(word: str) -> str:
    """Return which key may have been meant; of the word itself it shows nothing."""
    import difflib  # here: it is for mistakes

    key = word.partition("=")[0].lower()
    near = difflib.get_close_matches(key, _PARSERS, n=1)
    return f": did you mean {near[0]}=?" if near else ""


def parse_grant(words: Sequence[str]) -> Grant:
    """Read the words ``key=value`` behind name and token.

    :raises ValueError: says which word is wrong, and what it may be. It shows no value: a blank in
        the wrong place would make one of a token.
    """
    found: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        parse = _PARSERS.get(key) if equals else None
        if parse is None:
            raise ValueError(
                f"name and token may be followed by {', '.join(_KEYS)} only{_suggestion(word)}"
            )
        if key in found:
            raise ValueError(f"{key} is given twice")
        found[key] = parse(value)
    return Grant(**found)


def _rate(text: str) -> int:
    match = _RATE.fullmatch(text)
    rate = int(match[1]) * _FACTORS[match[2]] if match is not None else 0
    if not MIN_RATE <= rate <= _MAX_RATE:
        raise ValueError(
            f"rate is bytes a second, {MIN_RATE:,} at least, as 250k, 2M (2,000,000) or 1G"
        )
    return rate


def _count(key: str, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
            raise ValueError(f"{key} is a number, 1 to {most}")
        return int(text)

    return parse


def _expires(text: str) -> float:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            "expires is a date, as 2027-01-31 (its first moment, UTC) or 2027-01-31T18:00+01:00"
        ) from None
    return (when if when.tzinfo is not None else when.replace(tzinfo=UTC)).timestamp()


_PARSERS: dict[str, Callable[[str], int | float]] = {
    "rate": _rate,
    "streams": _count("streams", 1 << 20),
    "sessions": _count("sessions", 4096),
    "expires": _expires,
}
_KEYS = ("rate=BYTES", "streams=N", "sessions=N", "expires=DATE")
