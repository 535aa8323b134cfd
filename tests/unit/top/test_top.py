"""Frames of the screen: that they fit, what they say, and that names of others do no harm."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from zks_lwip.daemon.states import no_status
from zks_lwip.host.linux.socket_owners import Owner, read_address
from zks_lwip.top.model import SORTS, Model, drops
from zks_lwip.top.view import amount, frame, next_sort, plain_only, sparkline

SOURCE = ("198.18.0.1", 40000)


def status(**more: Any) -> dict[str, Any]:
    told: dict[str, Any] = dict(no_status())
    told |= {"state": "connected", "tunnel": "connected", "interface": "zks0", "worker": "wss://w"}
    return told | more


def flow(number: int, **more: Any) -> dict[str, Any]:
    return {
        "protocol": "tcp",
        "source": ["198.18.0.1", 40000 + number],
        "destination": [f"192.0.2.{number % 250}", 443],
        "name": f"host{number}.example",
        "via": "tunnel",
        "state": "open",
        "seconds": float(number),
        "bytes_up": 10 * number,
        "bytes_down": 1000 * number,
    } | more


def model(count: int, **more: Any) -> Model:
    made = Model()
    flows = {"flows": [flow(n) for n in range(count)], "left_out": 0, "slowest_names": []}
    made.told(status(**more), flows, {("tcp", *SOURCE): Owner(7, "curl")}, 100.0)
    return made


def draw(
    made: Model, width: int, height: int, *, plain: bool = False, still: bool = False
) -> list[str]:
    output = io.StringIO()
    console = Console(file=output, width=width, height=height, color_system=None)
    console.print(frame(made, width, height, plain=plain, still=still), end="")
    return output.getvalue().split("\n")


@pytest.mark.parametrize("size", [(80, 24), (200, 60), (20, 24), (20, 5), (10, 3), (3, 1), (1, 1)])
@pytest.mark.parametrize("count", [0, 1, 500])
@pytest.mark.parametrize("plain", [False, True])
def test_a_frame_fits(size: tuple[int, int], count: int, plain: bool) -> None:
    width, height = size
    made = model(count, problem="why", refused=7)
    made.up.extend(range(300))
    lines = draw(made, width, height, plain=plain)
    while lines and not lines[-1].strip():
        lines.pop()
    assert len(lines) <= height, lines
    assert all(len(line) <= width for line in lines), lines
    if plain:
        assert all(line.isascii() or "…" in line or "–" in line for line in lines)


def test_what_a_frame_says() -> None:
    assert "TARGET (1 flow)" in "\n".join(draw(model(1), 100, 24))
    made = model(3, refused=5)
    text = "\n".join(draw(made, 100, 24))
    assert "connected  zks0 → wss://w" in text and "firewall 5" in text
    assert "curl" in text and "host2.example:443" in text and "TARGET (3 flows)" in text
    made.told(
        status(traffic=status()["traffic"] | {"bytes_down": 5000, "dns_queries": 20}),
        {"flows": [flow(1, bytes_down=3000)], "left_out": 0, "slowest_names": [["a.example", 0.5]]},
        {},
        102.0,
    )
    text = "\n".join(draw(made, 100, 24))
    assert (
        "2.5KB/s" in text and "1.0K/s" in text and "10.0/s" in text and "a.example 500 ms" in text
    )
    made.gone(dict(no_status()) | {"state": "disconnected", "problem": "nothing runs here"})
    assert "disconnected  nothing runs here" in "\n".join(draw(made, 100, 24))


def test_a_still_frame_ends_with_its_last_flow() -> None:
    """It is printed, into a file perhaps: neither keys nor empty lines."""
    lines = draw(model(2), 100, 24, still=True)
    assert "host" in lines[-2] and lines[-1] == "" and not any("quit" in line for line in lines)
    assert len(draw(model(500), 100, 24, still=True)) == 24 + 1
    assert len(draw(model(0), 100, 24, still=True)) < 12


def test_names_of_others_move_no_cursor() -> None:
    made = Model()
    evil = "\x1b[2J\x1b]0;x\x07a\nb\u202e.example"
    flows = {"flows": [flow(0, name=evil)], "left_out": 3, "slowest_names": [[evil, 1.0]]}
    made.told(status(problem=evil), flows, {("tcp", *SOURCE): Owner(7, evil)}, 1.0)
    made.message = ""
    text = "\n".join(draw(made, 120, 24))
    assert not set("\x1b\x07\u202e") & set(text) and ".example" in text
    made.filter = "a"
    assert made.shown(), "markup and odd names are found"
    made.told(status(), flows | {"flows": [flow(0, name="[red]x[/red]")]}, {}, 2.0)
    made.filter = ""
    assert "[red]x[/red]" in "\n".join(draw(made, 120, 24))


@pytest.mark.parametrize("sort", SORTS)
def test_sorting_filtering_and_selecting(sort: str) -> None:
    made = model(40)
    made.sort = sort
    forward = [row.key for row in made.shown()]
    made.reverse = True
    assert [row.key for row in made.shown()] == forward[::-1] or sort in ("rate", "program")
    made.filter = "host1 tcp"
    assert {row.target for row in made.shown()} >= {"host1.example:443", "host17.example:443"}
    assert len(made.shown()) == 11
    made.selected = 99
    assert made.current() == made.shown()[-1]
    made.filter = "nothing is like that"
    assert made.current() is None
    assert next_sort(sort) in SORTS


def test_small_parts() -> None:
    assert [amount(n) for n in (0, 999, 1000, 4200, 99_400, 380e6, 5e12, 5e18)] == [
        "0", "999", "1.0K", "4.2K", "99.4K", "380M", "5.0T", "5000000T"]  # fmt: skip
    assert sparkline([], 10) == "" and sparkline([1, 2], 0) == "" and sparkline([0, 0], 5) == "▁▁"
    assert sparkline([0, 1, 2, 4], 3) == "▃▅█" and sparkline([1, 2], 9, plain=True) == "+@"
    assert plain_only("ascii") and plain_only("latin-1") and plain_only(None)
    assert not plain_only("utf-8")
    assert drops({}) == {} and drops(status(refused=2)) == {"firewall": 2}
    assert read_address("0100007F") == "127.0.0.1"
    assert read_address("0000000000000000FFFF00000100007F") == "127.0.0.1"
    assert read_address("00000000000000000000000001000000") == "::1"
