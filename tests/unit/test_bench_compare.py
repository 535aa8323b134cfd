"""The arithmetic of the comparison, its table, and its plot; and that a contender that fails does
not end it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

if sys.platform == "win32":
    pytest.skip("it compares machines of Linux", allow_module_level=True)

from tests.bench.compare import readme, run
from tests.bench.compare.figures import Figure, Results, quantile, ratio, spread
from tests.bench.compare.links import LINKS, LOSSY, links
from tests.bench.compare.main import main
from tests.bench.compare.measures import MEASURES, Settings, Step, highest, parts
from tests.bench.compare.plot import draw, panels
from tests.bench.compare.report import add_json, as_json, markdown
from tests.bench.compare.site import Running

SPEED = Figure("throughput", "up 8", "Gbit/s", higher_is_better=True)
TRIP = Figure("latency", "idle, median", "µs", digits=0)


def test_a_process_that_has_just_ended_has_no_memory() -> None:
    with subprocess.Popen(["true"]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        none = cast(Any, None)
        running = Running(none, none, None, {"client": [ended.pid], "server": [os.getpid()]})
        memory = running.memory()
    assert memory["client"] == 0 < memory["server"]


def _results() -> Results:
    results = Results(["direct", "ours", "other"])
    for ours, other in ((4.0, 2.0), (5.0, 2.5), (3.0, 1.0)):
        results.add(SPEED, "direct", 16.0)
        results.add(SPEED, "ours", ours)
        results.add(SPEED, "other", other)
    results.add(TRIP, "ours", 400.0)
    results.add(TRIP, "other", 1234.0, steal=0.2)
    results.fail("latency idle", "direct", "it fell over")
    return results


def test_the_cpu_of_what_failed_has_failed_and_no_other() -> None:
    results = Results(["direct", "ours"])
    for name in ("up 1, client", "up 8, client"):
        results.add(Figure("CPU", name, "s/GB"), "ours", 1.0)
    results.fail("throughput up 8", "direct", "it fell over")
    rows = markdown(results, None, {}).splitlines()
    assert [row.split("|")[2].strip() for row in rows if "client" in row] == ["–", "failed"]


def test_medians_and_spread() -> None:
    results = _results()
    assert results.median(SPEED, "ours") == 4.0
    assert results.spread(SPEED, "ours") == pytest.approx(0.25)
    assert results.median(TRIP, "direct") is None
    assert spread([7.0]) == 0.0 and spread([0.0, 0.0]) == 0.0
    assert spread([1.0, 2.0, 9.0]) == pytest.approx(2.0)


def test_ratios_say_how_many_times_as_good() -> None:
    results = _results()
    assert results.ratio(SPEED, "ours", "other") == 2.0
    assert results.ratio(TRIP, "ours", "other") == pytest.approx(3.085)
    assert results.ratio(TRIP, "direct", "other") is None
    results.add(SPEED, "huge", 300.0)
    results.contenders.append("huge")
    assert "300.00 (150×)" in markdown(results, "other", {})
    assert ratio(SPEED, 0.0, 3.0) is None and ratio(TRIP, 3.0, 0.0) is None


def test_quantiles_are_values_that_were_measured() -> None:
    values = [float(number) for number in range(100, 0, -1)]
    assert quantile(values, 0.99) == 100.0
    assert quantile(values, 0.5) == 51.0
    assert quantile([3.0], 0.99) == 3.0
    with pytest.raises(ValueError, match="nothing was measured"):
        quantile([], 0.5)


def test_the_table() -> None:
    text = markdown(_results(), "other", {"machine": "two cores"})
    about, rows = text.split("\n\n", 1)
    assert about.splitlines() == [
        "machine: two cores  ",
        "median ± half of the range; in brackets how many times as good as other  ",
        "\\* measured while other machines took up to 20% of this one's CPU  ",
    ]
    assert rows.splitlines() == [
        "|                  |         direct |           ours |     other |",
        "|------------------|---------------:|---------------:|----------:|",
        "| **throughput**   |                |                |           |",
        "| up 8, Gbit/s     | 16.00 ±0% (8×) | 4.00 ±25% (2×) | 2.00 ±38% |",
        "| **latency**      |                |                |           |",
        "| idle, median, µs |         failed |     400 (3.1×) |    1,234* |",
        "",
        "- direct: it fell over (latency idle)",
    ]


def test_json_has_every_value() -> None:
    told = json.loads(json.dumps(as_json(_results(), "other", {"machine": "two cores"})))
    assert [figure["name"] for figure in told["figures"]] == ["up 8", "idle, median"]
    ours = told["figures"][0]["contenders"]["ours"]
    assert ours["values"] == [4.0, 5.0, 3.0] and ours["median"] == 4.0 and ours["ratio"] == 2.0
    assert told["figures"][1]["contenders"]["other"]["steal"] is True
    assert told["failures"] == [
        {"step": "latency idle", "contender": "direct", "message": "it fell over"}
    ]


def test_pieces_are_put_together() -> None:
    whole = _results()
    first, second = Results(["direct", "ours"]), Results(["ours", "other"])
    for name, part in (("direct", first), ("ours", first), ("other", second)):
        for figure, by_name in whole.values.items():
            for value in by_name.get(name, ()):
                part.add(figure, name, value, 0.2 if (figure, name) in whole.marked else 0.0)
    second.failures.update(whole.failures)
    add_json(first, json.loads(json.dumps(as_json(second, None, {}))))
    assert markdown(first, "other", {}) == markdown(whole, "other", {})


def test_the_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "plot.svg"
    draw(_results(), path, "two cores")
    text = path.read_text()
    assert text.startswith("<?xml") and "throughput, Gbit/s (more is better)" in text


def test_figures_of_one_unit_share_a_panel_and_what_has_no_peer_is_left_out() -> None:
    results = _results()
    alone = Figure("start", "--help", "s")
    results.add(alone, "ours", 0.1)
    assert list(panels(results)) == [[[SPEED], [TRIP]]]
    many = [Figure("CPU", f"up {number}", "s/GB") for number in range(13)]
    for figure in many:
        results.add(figure, "ours", 1.0)
        results.add(figure, "other", 1.0)
    assert list(panels(results)) == [[[SPEED], [TRIP]], [many]]


def test_an_earlier_sitting_is_shown_and_put_into_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    about = {"machine": "two cores"}
    values, page = tmp_path / "values.json", tmp_path / "README.md"
    values.write_text(json.dumps(as_json(_results(), "other", about)))
    page.write_text(f"before\n\n{readme.BEGIN}old\n{readme.END}\nafter\n")
    for _ in range(2):  # again: the page stays
        assert main(["--show", str(values), "--readme", str(page)]) == 0
        table = markdown(_results(), "other", about)
        assert capsys.readouterr().out == table
        text = page.read_text()
        assert text == f"before\n\n{readme.BEGIN}\n{table}\n{readme.END}\nafter\n"
        assert readme.shown(text) == table


def test_a_page_without_the_marks_is_said_before_anything_is_measured(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"{readme.END}{readme.BEGIN}")
    with pytest.raises(SystemExit, match="has no lines"):
        main(["--readme", str(page)])
    assert page.read_text() == f"{readme.END}{readme.BEGIN}"


def test_readme_shows_the_table_of_the_values_that_lie_beside_its_plot() -> None:
    root = Path(__file__).parents[2]
    values = root / ".github" / "benchmark.json"
    if not values.is_file():
        pytest.skip("the values are not there")
    told = json.loads(values.read_text("utf-8"))
    results = Results([])
    add_json(results, told)
    text = (root / "README.md").read_text("utf-8")
    assert readme.shown(text) == markdown(results, told["reference"], told["about"])
    assert "](.github/benchmark.svg)" in text and (root / ".github" / "benchmark.svg").is_file()


@pytest.mark.parametrize("limit", [0, 1, 7, 14, 15])
def test_the_highest_rate_is_found_and_one_accident_is_forgiven(limit: int) -> None:
    rates = list(range(100, 1600, 100))
    tried: list[int] = []

    def carried(rate: int) -> float | None:
        tried.append(rate)
        accident = tried.count(rate) == 1
        return None if accident or rate > 100 * limit else rate + 0.5

    assert highest(rates, carried) == (100 * limit + 0.5 if limit else 0.0)
    assert len(tried) <= 8


def test_every_link_sets_everything_so_that_none_has_what_another_left() -> None:
    shapes = [*LINKS.values(), *LOSSY.values()]
    assert all(shape.keys() == shapes[0].keys() for shape in shapes)
    for some in (LINKS, LOSSY):
        steps = [str(step) for step in links("links", some, Settings())]
        assert steps and len(set(steps)) == len(steps)


class _Contender:
    """Stands for one: it is up, down, or breaks."""

    udp = True
    direct = False
    processes = 1
    measures: frozenset[str] | None = None

    def __init__(self, name: str, *, up: bool = True, busy: bool = False) -> None:
        self.name = name
        self.up = up
        self.busy = busy
        self.started = 0
        self.used = 0.0

    def cpu(self) -> dict[str, float]:
        """What a contender that is up tells, which this one stands for, too."""
        self.used += self.busy
        return {"client": self.used}


class _Site:
    """Stands for the namespaces."""

    def __init__(self, stack: ExitStack, echoes: int, *, long: bool) -> None:
        pass

    def add_host(self, contender: _Contender, **link: float) -> tuple[None, None]:
        return None, None

    @contextmanager
    def up(self, contender: _Contender, *where: object) -> Iterator[_Contender]:
        contender.started += 1
        if not contender.up:
            raise RuntimeError("does not start")
        yield contender


def test_a_contender_that_fails_is_reported_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good, breaks, absent = _Contender("good"), _Contender("breaks"), _Contender("absent", up=False)

    def work(site: object, running: object) -> list[tuple[Figure, float]]:
        if running is breaks:
            raise RuntimeError("broke\nin two lines")
        return [(SPEED, 3.0)]

    steps = [Step("throughput", "up 8", work), Step("throughput", "down 8", work, fresh=True)]
    monkeypatch.setattr(run, "Site", _Site)
    monkeypatch.setitem(run.MEASURES, "throughput", lambda _: iter(steps))
    results = Results(["good", "breaks", "absent"])
    contenders = [good, breaks, absent]
    run.sit(["throughput"], contenders, Settings(), 2, results)  # type: ignore[arg-type]
    assert results.values[SPEED] == {"good": [3.0] * 4}
    assert good.started == 3  # and anew for the step that needs a fresh one, in both rounds
    assert breaks.started == 2  # anew after a failure; what failed is not tried again
    assert absent.started == 1
    assert results.failures == {
        ("throughput up 8", "breaks"): "broke in two lines",
        ("throughput down 8", "breaks"): "broke in two lines",
        ("throughput up 8", "absent"): "does not start",
        ("throughput down 8", "absent"): "does not start",
    }
    assert "absent does not come up" in capsys.readouterr().err


def test_a_contender_that_fails_again_and_again_is_given_up_and_one_may_be_limited(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    breaks, limited = _Contender("breaks"), _Contender("limited")
    limited.measures = frozenset({"latency"})
    tried: list[str] = []

    def work(name: str, site: object, running: _Contender) -> list[tuple[Figure, float]]:
        tried.append(f"{running.name} {name}")
        if running is breaks and name != "1":
            raise RuntimeError("first\nwhere it is\nlast")
        return [(SPEED, 3.0)]

    names = [str(number) for number in range(6)]
    steps = [Step("throughput", name, partial(work, name)) for name in names]
    more = [Step("latency", "idle", partial(work, "idle"))]
    monkeypatch.setattr(run, "Site", _Site)
    monkeypatch.setitem(run.MEASURES, "throughput", lambda _: iter(steps))
    monkeypatch.setitem(run.MEASURES, "latency", lambda _: iter(more))
    results = Results(["breaks", "limited"])
    contenders = [breaks, limited]
    run.sit(["throughput", "latency"], contenders, Settings(), 1, results)  # type: ignore[arg-type]
    assert tried == [*(f"breaks {number}" for number in range(5)), "limited idle"]
    assert results.failures["throughput 4", "breaks"] == "first ... last"
    assert results.failures["throughput 5", "breaks"] == "not tried after 3 failures"
    assert results.failures["latency idle", "breaks"] == "not tried after 3 failures"
    capsys.readouterr()


def test_a_contender_that_goes_on_after_a_step_is_not_in_the_way_of_the_next(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rests, busy = _Contender("rests"), _Contender("busy", busy=True)
    steps = [Step("throughput", name, lambda *_: [(SPEED, 3.0)]) for name in ("up 1", "up 8")]
    monkeypatch.setattr(run, "Site", _Site)
    monkeypatch.setattr(run, "REST_SECONDS", 0.1)
    monkeypatch.setitem(run.MEASURES, "throughput", lambda _: iter(steps))
    results = Results(["rests", "busy"])
    run.sit(["throughput"], [rests, busy], Settings(), 1, results)  # type: ignore[list-item]
    assert (rests.started, busy.started) == (1, 2)
    assert not results.failures
    capsys.readouterr()


def test_a_contender_comes_up_on_the_link_that_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it learns of a path at its start is of that one."""
    found: list[dict[str, float]] = []

    class Link:
        def __init__(self) -> None:
            self.shape: dict[str, float] = {}

        def set(self, **shape: float) -> None:
            self.shape = shape

    class Site(_Site):
        def add_host(self, contender: _Contender, **link: float) -> Any:
            return None, Link()

        @contextmanager
        def up(self, contender: _Contender, *where: Any) -> Iterator[_Contender]:
            found.append(where[1].shape)
            yield contender

    shapes = [{"delay": 0.005}, {"delay": 0.05}]
    steps = [
        Step("throughput", str(number), lambda *_: [(SPEED, 3.0)], fresh=True, link=shape)
        for number, shape in enumerate(shapes)
    ]
    monkeypatch.setattr(run, "Site", Site)
    monkeypatch.setitem(run.MEASURES, "throughput", lambda _: iter(steps))
    results = Results(["good"])
    run.sit(["throughput"], [_Contender("good")], Settings(), 1, results)  # type: ignore[list-item]
    assert found == shapes
    capsys.readouterr()


@pytest.mark.parametrize("name", MEASURES)
def test_no_two_steps_are_called_the_same(name: str) -> None:
    steps = [str(step) for step in MEASURES[name](Settings())]
    assert steps and len(set(steps)) == len(steps)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["walking"], "there is no measure 'walking'"),
        (["--without", "other"], "there is no contender 'other'"),
        (["--peer", "x"], "give NAME=SCRIPT"),
        (["--limit", "ours ws=walking"], "give NAME=MEASURE,..."),
        (["--limit", "other=udp"], "give NAME=MEASURE,..."),
    ],
)
def test_what_cannot_be_measured_is_said_at_once(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize(("descriptors", "processes"), [(40_000, 1), (20_000, 1), (18_800, 2)])
def test_flows_that_one_process_may_not_have_are_spread(descriptors: int, processes: int) -> None:
    settings = Settings(flows=20_000, descriptors=descriptors)
    (step,) = MEASURES["flows"](settings)
    assert settings.processes == step.processes == processes
    assert sum(parts(20_000, processes)) == 20_000 and parts(7, 3) == [2, 2, 3]


def test_a_server_has_several_processes_for_the_step_that_needs_them_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = _Contender("one")
    started: list[tuple[str, int]] = []

    class _Noting(_Site):
        @contextmanager
        def up(self, contender: _Contender, *where: object) -> Iterator[_Contender]:
            started.append((contender.name, contender.processes))
            yield contender

    def work(site: object, running: object) -> list[tuple[Figure, float]]:
        return [(SPEED, 3.0)]

    steps = [Step("x", "1", work), Step("x", "2", work, fresh=True, processes=2)]
    monkeypatch.setattr(run, "Site", _Noting)
    monkeypatch.setitem(run.MEASURES, "throughput", lambda _: iter([*steps, Step("x", "3", work)]))
    results = Results(["one"])
    run.sit(["throughput"], [one], Settings(), 1, results)  # type: ignore[list-item]
    assert [processes for _, processes in started] == [1, 2, 1]
    capsys.readouterr()
