"""Which packet marks other programs' rules use, read from what nft(8) and iptables-save(8) print.

No input and output, and ready for anything: what is read was made by others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from .steps import MARKING_TABLE, TABLE_NAME

__all__ = ["ALL_BITS", "MarkUse", "NftMarks", "read_iptables", "read_nftables"]

_OURS = (TABLE_NAME, MARKING_TABLE)

ALL_BITS = 0xFFFFFFFF
# Different marks that are looked at, of each program: far more than any ruleset has by hand.
_MAX_MARKS = 4096
_MAX_OBJECTS = 1 << 20  # uses that are looked at to find them
_MAX_RULE = 1 << 14  # characters of a saved rule; iptables has no such rules
_COMPARED = {"==", "!=", "in"}  # not "<": what is above or below something is no mark of its own
# Extensions of iptables that nft shows by name at most. (Without a name: any of them.)
_EXTENSIONS = {"", "mark", "connmark", "tproxy"}
_SAVED = re.compile(
    r"(! )?--(mark|set-xmark|set-mark|or-mark|xor-mark|tproxy-mark) "
    r"(0x[0-9a-f]{1,8}|[0-9]{1,10})(?:/(0x[0-9a-f]{1,8}|[0-9]{1,10}))?(?!\S)"
)
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')

_Range = tuple[int, int, int]
"""First and last mark, and the mask of the bits that count."""


@dataclass(frozen=True, slots=True)
class MarkUse:
    """A rule that matches or sets the marks from ``first`` to ``last`` in the bits of ``mask``."""

    where: str
    first: int
    last: int
    mask: int = ALL_BITS

    def is_of(self, mark: int) -> bool:
        """Return whether the rule takes packets of this mark for its own.

        One about packets without a mark, or with any, does not.
        """
        mine = mark & self.mask
        if self.first != self.last and self.first <= 1 and self.last >= self.mask:
            return False
        return mine != 0 and self.first <= mine <= self.last

    @property
    def flag(self) -> bool:
        """It is about one bit, which a mark may have by chance: a container engine's, say."""
        return self.mask.bit_count() == 1

    def __str__(self) -> str:
        last = "" if self.last == self.first else f"-{self.last:#x}"
        mask = "" if self.mask == ALL_BITS else f"/{self.mask:#x}"
        return f"{self.where} ({self.first:#x}{last}{mask})"


@dataclass(frozen=True, slots=True)
class NftMarks:
    """What a ruleset of nftables shows."""

    uses: tuple[MarkUse, ...]
    named: bool
    """It has named sets or maps of marks: a terse listing (``nft -t``) has left out what is in
    them."""
    opaque: frozenset[str]
    """Families that have rules of iptables-nft whose marks nft does not show."""


def read_nftables(text: str) -> NftMarks:
    """Read ``nft -j list ruleset`` (libnftables-json(5)), but for our own table.

    :raises ValueError: it is no such thing.
    """
    try:
        items = json.loads(text)["nftables"]
        objects = [next(iter(item.items())) for item in items]
        others = [(kind, body) for kind, body in objects if not _is_ours(body)]
        uses = _collect(_uses(others))
        named = any(kind in ("set", "map") and _holds_marks(body) for kind, body in others)
        rules = [body for kind, body in others if kind == "rule"]
        opaque = frozenset(str(rule.get("family")) for rule in rules if _is_opaque(rule))
    except (ValueError, TypeError, LookupError, AttributeError, StopIteration, RecursionError):
        raise ValueError("it is no ruleset of nftables in JSON") from None
    return NftMarks(uses, named, opaque)


def read_iptables(text: str, program: str) -> tuple[MarkUse, ...]:
    """Read what iptables-save or ip6tables-save (``program``: iptables, ip6tables) has printed.

    :raises ValueError: it is no such thing.
    """
    if text.strip() and not re.search(r"^[*#]", text, re.MULTILINE):
        raise ValueError("it is no ruleset of iptables")
    return _collect(_saved(text, program))


def _saved(text: str, program: str) -> Iterator[MarkUse]:
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = _shown(line[1:])
        if not line.startswith("-A ") or len(line) > _MAX_RULE:
            continue
        where = f"chain {_shown(line.split()[1:2])} of the table {table} of {program}"
        for negated, option, value, mask in _SAVED.findall(_QUOTED.sub("", line)):
            bits = _number(mask) if mask else ALL_BITS
            wanted = _number(value)
            if option in ("or-mark", "xor-mark"):
                bits = wanted
            if option in ("set-xmark", "tproxy-mark"):
                bits |= wanted  # mark = (mark & ~bits) ^ wanted
            if negated and not wanted:
                wanted = _one_bit(bits)
            yield MarkUse(where, wanted, wanted, bits)


def _number(text: str) -> int:
    return int(text, 16 if text.startswith("0x") else 10) & ALL_BITS


def _collect(uses: Iterator[MarkUse]) -> tuple[MarkUse, ...]:
    """Keep each mark once: a thousand rules about the same one say no more than the first."""
    found: dict[_Range, MarkUse] = {}
    for use in islice(uses, _MAX_OBJECTS):
        if use.first or use.last:
            found.setdefault((use.first, use.last, use.mask), use)
        if len(found) >= _MAX_MARKS:
            break
    return tuple(found.values())


def _uses(objects: list[tuple[str, Any]]) -> Iterator[MarkUse]:
    for kind, body in objects:
        if kind == "rule":
            ranges, what = _in_rule(body.get("expr") or []), f"chain {_shown(body.get('chain'))}"
        elif kind in ("set", "map"):
            ranges, what = _in_set(body), f"{kind} {_shown(body.get('name'))}"
        else:
            continue
        table = f"{_shown(body.get('family'))} {_shown(body.get('table'))}"
        for first, last, mask in ranges:
            yield MarkUse(f"{what} of the nftables table {table}", first, last, mask)


def _is_ours(body: Any) -> bool:
    return bool(body.get("family") == "inet" and body.get("table") in _OURS)


def _shown(name: Any) -> str:
    """Return a name that another program has given, fit for a message."""
    text = " ".join(map(str, name)) if isinstance(name, list) else str(name)
    return "".join(c if c.isprintable() else "?" for c in text[:64])


def _is_opaque(rule: Any) -> bool:
    for name, body in _nodes(rule.get("expr") or []):
        if name == "xt":
            extension = body.get("name") if isinstance(body, dict) else None
            if str(extension or "").lower() in _EXTENSIONS:
                return True
    return False


def _nodes(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield everything that is named in a piece of JSON, however deep."""
    stack = [value]
    while stack:
        one = stack.pop()
        if isinstance(one, dict):
            yield from one.items()
            stack.extend(one.values())
        elif isinstance(one, list):
            stack.extend(one)


def _in_rule(expressions: Any) -> Iterator[_Range]:
    for name, body in _nodes(expressions):
        if not isinstance(body, dict):
            continue
        if name == "match":
            yield from _matched(body)
        elif name == "mangle" and _mask_of(body.get("key")):
            yield from _assigned(body.get("value"))
        elif name in ("map", "vmap") and "key" in body:
            for pair in _elements(body.get("data")):
                if isinstance(pair, list) and pair:
                    yield from _compared(body["key"], pair[0])


def _matched(body: dict[str, Any]) -> Iterator[_Range]:
    left, right, operator = body.get("left"), body.get("right"), body.get("op")
    if operator not in _COMPARED:
        return
    mask = _mask_of(left)
    if operator == "!=" and right == 0:
        # "Some of these bits": a mark of its own if it is one.
        yield from _ranges(_one_bit(mask), mask)
    elif operator == "in" and type(right) is int:
        yield from _ranges(_one_bit(right), right)
    else:
        for element in _elements(right):
            yield from _compared(left, element)


def _one_bit(mask: int) -> int:
    return mask if mask.bit_count() == 1 else 0


def _elements(value: Any) -> list[Any]:
    """Return the elements of an anonymous set; or the value that stands alone."""
    elements = value.get("set") if isinstance(value, dict) and "set" in value else [value]
    return elements if isinstance(elements, list) else [elements]


def _compared(left: Any, element: Any) -> Iterator[_Range]:
    """Yield the marks that an element stands for, where marks are on the left."""
    element = _bare(element)
    if isinstance(left, dict) and isinstance(left.get("concat"), list):
        parts = element.get("concat") if isinstance(element, dict) else None
        for one, part in zip(left["concat"], parts or (), strict=False):
            yield from _ranges(part, _mask_of(one))
    else:
        yield from _ranges(element, _mask_of(left))


def _bare(element: Any) -> Any:
    """Return an element without its comment, counter or timeout."""
    if isinstance(element, dict) and isinstance(element.get("elem"), dict):
        return element["elem"].get("val")
    return element


def _mask_of(expression: Any) -> int:
    """Return the bits of a mark that an expression gives; 0: it is about something else."""
    if not isinstance(expression, dict):
        return 0
    for name in ("meta", "ct", "socket"):
        body = expression.get(name)
        if isinstance(body, dict) and body.get("key") == "mark":
            return ALL_BITS
    mask, marked = ALL_BITS, False
    operands = expression.get("&")
    for operand in operands if isinstance(operands, list) else ():
        if type(operand) is int:
            mask &= operand
        else:
            mask &= _mask_of(operand)
            marked = True
    return mask if marked else 0


def _ranges(value: Any, mask: int) -> Iterator[_Range]:
    """Yield the marks that a constant stands for, if ``mask`` says that it is one."""
    value = _bare(value)
    if not mask:
        return
    if type(value) is int:
        if 0 <= value <= ALL_BITS:
            yield value, value, mask
    elif isinstance(value, dict):
        between, prefix = value.get("range"), value.get("prefix")
        if isinstance(between, list) and len(between) == 2:
            first, last = between
            if type(first) is int and type(last) is int and 0 <= first <= last <= ALL_BITS:
                yield first, last, mask
        elif isinstance(prefix, dict):
            address, length = prefix.get("addr"), prefix.get("len")
            if type(address) is int and type(length) is int and 0 <= length <= 32:
                bits = ALL_BITS << (32 - length) & ALL_BITS
                yield address & bits, address | ~bits & ALL_BITS, mask


def _assigned(value: Any) -> Iterator[_Range]:
    """Yield the marks that are set: as a whole, or some bits of them."""
    if not isinstance(value, dict):
        yield from _ranges(value, ALL_BITS)
        return
    for operator in ("|", "^"):
        operands = value.get(operator)
        if isinstance(operands, list):
            bits = 0
            kept = ALL_BITS
            for operand in operands:
                if type(operand) is int:
                    bits |= operand
                else:
                    kept &= _mask_of(operand) or ALL_BITS
            yield from _ranges(bits, bits | ~kept & ALL_BITS)
    mapped = value.get("map")
    if isinstance(mapped, dict):
        for pair in _elements(mapped.get("data")):
            if isinstance(pair, list) and len(pair) == 2:
                yield from _ranges(pair[1], ALL_BITS)
    for name in ("numgen", "jhash", "symhash"):
        body = value.get(name)
        if isinstance(body, dict) and type(body.get("mod")) is int:
            first = body.get("offset") or 0
            yield from _ranges({"range": [first, first + body["mod"] - 1]}, ALL_BITS)


def _holds_marks(body: dict[str, Any]) -> bool:
    return any(_masks(body.get("type"))) or any(_masks(body.get("map")))


def _masks(kind: Any) -> list[int]:
    """Return, for each part of a set's type, the bits of a mark that it is."""
    if isinstance(kind, dict):  # {"typeof": EXPRESSION}
        expression = kind.get("typeof")
        parts = expression.get("concat") if isinstance(expression, dict) else None
        return [_mask_of(part) for part in (parts if isinstance(parts, list) else [expression])]
    names = kind if isinstance(kind, list) else str(kind).split(" . ")
    return [ALL_BITS if name == "mark" else 0 for name in names]


def _in_set(body: dict[str, Any]) -> Iterator[_Range]:
    keys, values = _masks(body.get("type")), _masks(body.get("map"))
    for element in body.get("elem") or ():
        pair = element if "map" in body and isinstance(element, list) else [element]
        for masks, part in zip((keys, values), pair, strict=False):
            yield from _parts(_bare(part), masks)


def _parts(value: Any, masks: list[int]) -> Iterator[_Range]:
    parts = value.get("concat") if isinstance(value, dict) and len(masks) > 1 else [value]
    for part, mask in zip(parts if isinstance(parts, list) else (), masks, strict=False):
        yield from _ranges(part, mask)
