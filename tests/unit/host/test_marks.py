"""Others' marks, read from what nft 1.0.6 and iptables 1.8.9 have printed."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from zks_lwip.host.plan.marks import ALL_BITS, MarkUse, read_iptables, read_nftables

MARK = 0x7A6B
RECORDED = Path(__file__).parent / "recorded"

# The rules of nftables.json, as they were typed, and what is to be seen in them.
RULES = {
    "meta mark 0x7a6b accept": "0x7a6b",
    "meta mark != 0x7a6b accept": "0x7a6b",
    "meta mark and 0xff00 == 0x7a00 accept": "0x7a00/0xff00",
    "meta mark and 0x4000 != 0 accept": "0x4000/0x4000",
    "meta mark & 0x4000 == 0x4000 accept": "0x4000/0x4000",
    "ct mark 0x7a6b accept": "0x7a6b",
    "ct mark and 0xffff == 0x7a6b accept": "0x7a6b/0xffff",
    "meta mark { 0x7a6b, 0x1 } accept": "0x1 0x7a6b",
    "meta mark 0x7a00-0x7aff accept": "0x7a00-0x7aff",
    "meta mark { 0x7a00-0x7aff, 0x9 } accept": "0x9 0x7a00-0x7aff",
    "meta mark >= 0x7a accept": "",
    "meta mark vmap { 0x7a6b : accept, 0x2 : drop }": "0x2 0x7a6b",
    "meta mark @ms accept": "",
    "meta mark vmap @mv": "",
    "ip daddr . meta mark { 1.2.3.4 . 0x7a6b } accept": "0x7a6b",
    "meta mark . ip daddr @cc accept": "",
    "meta mark set 0x7a6b": "0x7a6b",
    "ct mark set 0x7a6b": "0x7a6b",
    "meta mark set ct mark": "",
    "ct mark set meta mark": "",
    "meta mark set meta mark or 0x4000": "0x4000/0x4000",
    "meta mark set meta mark and 0xffff00ff or 0x7a00": "0x7a00/0xff00",
    "meta mark set meta mark xor 0x4000": "0x4000/0x4000",
    "meta mark set ip daddr map { 1.2.3.4 : 0x7a6b, 5.6.7.8 : 0x1 }": "0x7a6b 0x1",
    "meta mark set ip daddr map @mm": "",
    "meta mark set numgen inc mod 4 offset 0x7a6a": "0x7a6a-0x7a6d",
    "socket mark 0x7a6b accept": "0x7a6b",
}


def recorded(name: str) -> str:
    return (RECORDED / name).read_text()


def ruleset(*objects: object) -> str:
    return json.dumps({"nftables": [{"metainfo": {"json_schema_version": 1}}, *objects]})


def rule(*expressions: object, family: str = "ip", table: str = "foo") -> dict[str, object]:
    body = {"family": family, "table": table, "chain": "c", "handle": 2, "expr": expressions}
    return {"rule": body}


def shown(text: str) -> str:
    """The marks in a listing, without where they are."""
    return " ".join(re.sub(r".* \((.*)\)", r"\1", str(use)) for use in read_nftables(text).uses)


@pytest.mark.parametrize("number", range(len(RULES)), ids=list(RULES))
def test_a_rule(number: int) -> None:
    items = json.loads(recorded("nftables.json"))["nftables"]
    rules = [item for item in items if "rule" in item]
    assert len(rules) == len(RULES)
    assert shown(ruleset(rules[number])) == list(RULES.values())[number]


SETS = {"ms": "0x10-0x20 0x7a6b", "big": "", "mm": "0x7a6b", "mv": "0x7a6b", "cc": "0x7a6b"}


@pytest.mark.parametrize("name", SETS)
def test_a_named_set(name: str) -> None:
    """What a terse listing leaves out has to be asked for."""
    for file, marks in (("nftables.json", SETS[name]), ("nftables-terse.json", "")):
        items = json.loads(recorded(file))["nftables"]
        bodies = [body for item in items for body in item.values() if body.get("name") == name]
        kind = "map" if name.startswith("m") and name != "ms" else "set"
        text = ruleset(*({kind: body} for body in bodies))
        assert shown(text) == marks
        assert read_nftables(text).named == (name != "big")


def test_newer_ways_to_write_it() -> None:
    mark = {"meta": {"key": "mark"}}
    for expression, seen in (
        ({"match": {"op": "in", "left": mark, "right": 0x4000}}, "0x4000/0x4000"),
        ({"match": {"op": "in", "left": mark, "right": 0x7A6B}}, ""),
        ({"match": {"op": "==", "left": {"&": [mark, 0xFFFF, 0xFF0]}, "right": 32}}, "0x20/0xff0"),
        ({"match": {"op": "==", "left": mark, "right": {"set": [{"elem": {"val": 7}}]}}}, "0x7"),
    ):
        assert shown(ruleset(rule(expression))) == seen
    typed = {"type": {"typeof": {"concat": [{"meta": {"key": "iif"}}, mark]}}, "name": "x"}
    typed |= {"family": "ip", "table": "t", "elem": [{"concat": ["eth0", 9]}]}
    assert shown(ruleset({"set": typed})) == "0x9" and read_nftables(ruleset({"set": typed})).named


def test_where_it_is() -> None:
    assigned = {"mangle": {"key": {"ct": {"key": "mark"}}, "value": 5}}
    (use,) = read_nftables(ruleset(rule(assigned))).uses
    assert str(use) == "chain c of the nftables table ip foo (0x5)"


def test_our_own_table_is_passed_over() -> None:
    mark = {"match": {"op": "==", "left": {"meta": {"key": "mark"}}, "right": MARK}}
    assert read_nftables(ruleset(rule(mark, family="inet", table="zks_lwip"))).uses == ()
    assert read_nftables(ruleset(rule(mark, family="ip", table="zks_lwip"))).uses


def test_extensions_of_iptables() -> None:
    """nft translates some, names others, and some versions show nothing at all."""
    found = read_nftables(recorded("iptables-nft.json"))
    assert shown(recorded("iptables-nft.json")) == "0x7a6b/0xffff 0x4000/0x4000"
    assert found.opaque == {"ip"} and not found.named
    for expression, opaque in (
        ({"xt": None}, {"ip6"}),
        ({"xt": {"type": "target", "name": "CONNMARK"}}, {"ip6"}),
        ({"xt": {"type": "match", "name": "comment"}}, set()),
    ):
        assert read_nftables(ruleset(rule(expression, family="ip6"))).opaque == opaque


@pytest.mark.parametrize("file", ["iptables-nft.txt", "iptables-legacy.txt"])
def test_what_iptables_saves(file: str) -> None:
    uses = read_iptables(recorded(file), "iptables")
    expected = {
        "chain PREROUTING of the table mangle of iptables (0x7a6b)",
        "chain OUTPUT of the table mangle of iptables (0x7a6b/0xffff)",
        "chain OUTPUT of the table mangle of iptables (0x4000/0x4000)",
    }
    assert {str(use) for use in uses} == expected
    assert [use.is_of(MARK) for use in uses] == [True] * 3
    assert [use.flag for use in uses].count(True) == 1


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ('-A x -m comment --comment "--mark 0x7a6b" -j ACCEPT', ""),
        ('-A x -m comment --comment "a \\" --mark 0x7a6b" -j ACCEPT', ""),
        ("-A x -m mark ! --mark 0x0/0x2000 -j ACCEPT", "0x2000/0x2000"),
        ("-A x -m mark --mark 0x0/0x2000 -j ACCEPT", ""),
        ("-A x -j MARK --set-xmark 0x0/0x2000", ""),
        ("-A x -j MARK --set-xmark 0x7a6b/0x0", "0x7a6b/0x7a6b"),
        ("-A x -j MARK --or-mark 0x30", "0x30/0x30"),
        ("-A x -m connmark --mark 31339", "0x7a6b"),
        ("-A x -m mark --mark 0x7a6bz", ""),
        ("-A x -m mark --mark", ""),
        ("-A", ""),
        (":x --mark 0x7a6b", ""),
    ],
)
def test_a_saved_line(line: str, seen: str) -> None:
    uses = read_iptables(f"# x\n*nat\n{line}\nCOMMIT\n", "iptables")
    assert " ".join(str(use).split("(")[1].rstrip(")") for use in uses) == seen


def test_which_marks_are_ours() -> None:
    def is_ours(first: int, last: int | None = None, mask: int = ALL_BITS) -> bool:
        return MarkUse("x", first, first if last is None else last, mask).is_of(MARK)

    assert is_ours(MARK) and is_ours(0x7A00, mask=0xFF00) and is_ours(0x7000, 0x7FFF)
    assert is_ours(0x4000, mask=0x4000) and is_ours(1, mask=1)
    assert not is_ours(0x7A6C) and not is_ours(0x40000, mask=0xFF0000) and not is_ours(0x6B)
    assert not is_ours(0) and not is_ours(0, mask=0xFF0000), "packets without a mark"
    assert not is_ours(1, ALL_BITS) and not is_ours(0, 0xFFFF, 0xFFFF), "packets with any mark"


NONSENSE = [
    "", "no", "null", "[]", "{}", '{"nftables": 3}', '{"nftables": [3]}', '{"nftables": [{}]}',
    "[" * 100_000, '{"nftables": ' + '{"a": ' * 5000 + "1" + "}" * 5001,
    '{"nftables": [{"rule": 5}]}', '{"nftables": [{"set": {"type": "mark", "elem": 5}}]}',
]  # fmt: skip


@pytest.mark.parametrize("text", NONSENSE, ids=range(len(NONSENSE)))
def test_nonsense(text: str) -> None:
    with pytest.raises(ValueError, match="no ruleset of nftables"):
        read_nftables(text)
    if text:
        with pytest.raises(ValueError, match="no ruleset of iptables"):
            read_iptables(text, "iptables")


def test_whatever_is_printed() -> None:
    noise = random.Random(5)
    whole = json.loads(recorded("nftables.json"))
    for _ in range(400):
        changed = json.loads(json.dumps(whole))
        for _ in range(8):
            _spoil(changed["nftables"], noise)
        try:
            read_nftables(json.dumps(changed))
        except ValueError as error:
            assert "no ruleset" in str(error)
    text = recorded("iptables-nft.txt")
    for _ in range(200):
        letters = list(text)
        for _ in range(20):
            letters[noise.randrange(len(letters))] = chr(noise.randrange(256))
        read_iptables("".join(letters), "iptables")


def _spoil(value: object, noise: random.Random) -> None:
    """Put something else in the place of a piece of JSON, somewhere inside."""
    while isinstance(value, (dict, list)) and value:
        key = noise.choice(list(value)) if isinstance(value, dict) else noise.randrange(len(value))
        if noise.random() < 0.2:
            value[key] = noise.choice([None, -1, 1 << 40, 1.5, True, "x", [], {}, [[]], {"set": 1}])
            return
        value = value[key]


def test_it_is_bounded() -> None:
    mark = {"meta": {"key": "mark"}}
    many = {"set": list(range(1, 100_000))}
    uses = read_nftables(ruleset(rule({"match": {"op": "==", "left": mark, "right": many}}))).uses
    assert len(uses) == 4096
    lines = "".join(f"-A x -j MARK --set-xmark {n}\n" for n in range(1, 10_000))
    assert len(read_iptables(f"*nat\n{lines}", "iptables")) == 4096
    named = {"family": "ip", "table": "\x1b[2J" + "x" * 1000, "name": "s", "type": "mark"}
    (use,) = read_nftables(ruleset({"set": named | {"elem": [5]}})).uses
    assert "\x1b" not in str(use) and len(str(use)) < 200
