"""Which names addresses were resolved from, and which took longest."""

from __future__ import annotations

import dns.message
import dns.rrset

from zks_lwip.dns.message.answer import answer_from_upstream
from zks_lwip.dns.message.query import Query, examine
from zks_lwip.dns.names import AddressNames, readable_name


def note(names: AddressNames, name: str, kind: str, *values: str, seconds: float = 0.1) -> None:
    query = dns.message.make_query(name, kind)
    found = examine(query.to_wire())
    assert isinstance(found, Query)
    query.id = 0  # as an upstream is asked
    response = dns.message.make_response(query)
    if values:
        response.answer.append(dns.rrset.from_text(name, 60, "IN", kind, *values))
    names.note(found, answer_from_upstream(response.to_wire(), found), seconds)


def test_names_of_addresses() -> None:
    names = AddressNames()
    note(names, "A.Example.", "A", "192.0.2.1", "192.0.2.2")
    note(names, "b.example.", "AAAA", "2001:db8::1")
    note(names, "c.example.", "A")
    note(names, "d.example.", "TXT", '"192.0.2.9"')
    assert names.name_of("192.0.2.2") == "a.example" and names.name_of("2001:db8::1") == "b.example"
    assert names.name_of("192.0.2.9") == ""
    note(names, "e.example.", "A", "192.0.2.1")
    assert names.name_of("192.0.2.1") == "e.example", "the last one"


def test_they_are_bounded() -> None:
    names = AddressNames()
    for number in range(8300):
        note(names, f"h{number}.example.", "A", f"10.0.{number >> 8}.{number & 255}")
        if number % 1000 == 0:
            names.name_of("192.0.2.1")
    assert names.name_of("10.0.0.0") == "" and names.name_of("10.0.32.107") == "h8299.example"


def test_the_slowest() -> None:
    now = [0.0]
    names = AddressNames(lambda: now[0])
    note(names, "old.example.", "A", "192.0.2.1", seconds=9.0)
    now[0] = 100.0
    for name, seconds in (("a", 0.1), ("b", 0.5), ("b", 0.2), ("c", 0.3)):
        note(names, f"{name}.example.", "A", "192.0.2.1", seconds=seconds)
    assert names.slowest(2) == [("b.example", 0.5), ("c.example", 0.3)]


def test_names_as_text() -> None:
    assert readable_name(b"\1a\2b.\0") == "a.b\\046" and readable_name(b"\0") == "."
    assert readable_name(b"\3\x1b[J\0") == "\\027[J" and readable_name(b"\x05ab") == "ab"
