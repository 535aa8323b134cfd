"""The disk of the journals is full, or cannot be written: nothing is opened for that."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kits.netns.child import until
from tests.kits.netns.disk import disk, fill
from tests.kits.netns.leak import Detector, Probers, Space
from tests.netns.host.conftest import Holder, execute, nothing, same

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes network namespaces")


@contextlib.contextmanager
def holder_on(space: Space, directory: Path) -> Iterator[Holder]:
    with contextlib.closing(Holder(space, directory)) as holder:
        yield holder


DISKS = {
    "full": ("size=8k", "No space left on device; make room"),
    "without inodes": ("nr_inodes=1", "No space left on device; make room"),
    "read-only": ("ro", "Read-only file system; have .* mounted writable"),
}


@pytest.mark.parametrize("kill_switch", ["strict", "route", "off"])
@pytest.mark.parametrize("kind", DISKS)
def test_no_journal_at_the_start(
    space: Space,
    holder: Holder,
    detector: Detector,
    fast_probers: Probers,
    tmp_path: Path,
    kind: str,
    kill_switch: str,
) -> None:
    """Nothing is changed; but with ``--always-on`` the host is closed, until ``recover``."""
    option, why = DISKS[kind]
    config: dict[str, object] = {"kill_switch": kill_switch}
    before = holder.picture()
    with disk(tmp_path / "state", option) as state, holder_on(space, state) as second:
        config["state_dir"] = str(state)
        second.order(f"^JournalError: cannot write the journal {state}/net-.*{why}", config, wait=1)
        same(before, holder.picture(), "without --always-on")
        with detector.watching() as found:
            fast_probers.rounds()
        assert found, "the control"
        second.order("^JournalError: .*", config, hold=True, wait=1)
        with detector.watching() as found:
            fast_probers.rounds()
        if kill_switch == "strict":
            nothing(found)
        elif kill_switch == "off":
            same(before, holder.picture(), "with nothing to close")
        else:
            assert "lookup 31339" in holder.picture()
        undone = second.recover()
        assert undone["left"] == [] and bool(undone["undone"]) == (kill_switch != "off")
    same(before, holder.picture())
    # With room again, the next one takes over what there is.
    holder.apply(kill_switch=kill_switch)
    holder.end()


@pytest.mark.parametrize("what", ["the directory", "the journal"])
def test_a_file_is_a_directory_or_the_other_way_round(
    space: Space,
    holder: Holder,
    detector: Detector,
    fast_probers: Probers,
    tmp_path: Path,
    what: str,
) -> None:
    """Where journals are, or one is to be: that is an error, and with ``--always-on`` closed."""
    state = tmp_path / "state"
    if what == "the directory":
        state.touch()
    else:
        (state / f"net-{os.stat(space.client.path).st_ino}.journal").mkdir(parents=True)
    before = holder.picture()
    with holder_on(space, state) as second:
        config = {"state_dir": str(state)}
        second.order(f"^JournalError: cannot write the journal {state}/net-", config, wait=1)
        same(before, holder.picture(), "without --always-on")
        second.order("^JournalError: .*", config, hold=True, wait=1)
        with detector.watching() as found:
            fast_probers.rounds()
        nothing(found)
        undone = second.recover()
        assert undone["left"] == [] and undone["undone"]
    same(before, holder.picture())


@pytest.mark.parametrize("hold", [False, True])
def test_a_tun_that_cannot_be_made(
    holder: Holder, detector: Detector, fast_probers: Probers, hold: bool
) -> None:
    """Whatever fails at the start: with ``--always-on`` it stays closed."""
    before = holder.picture()
    holder.order("^DeviceError.* cannot be made", {"node": "/dev/null"}, hold=hold, wait=1)
    with detector.watching() as found:
        fast_probers.rounds()
    if hold:
        nothing(found)
        assert holder.recover()["left"] == []
    else:
        assert found
    same(before, holder.picture())


@pytest.mark.parametrize("hold", [False, True])
def test_an_error_of_the_system_at_the_start(
    holder: Holder, detector: Detector, fast_probers: Probers, hold: bool
) -> None:
    """Also one without a sentence of its own: with ``--always-on`` it stays closed."""
    before = holder.picture()
    holder.order("^OSError: .*as ordered, in step 3", hold=hold, starve=3, wait=1)
    with detector.watching() as found:
        fast_probers.rounds()
    if hold:
        nothing(found)
        assert holder.recover()["left"] == []
    else:
        assert found
    same(before, holder.picture())


@pytest.mark.slow
def test_a_disk_that_fills_up(
    space: Space, holder: Holder, detector: Detector, fast_probers: Probers, tmp_path: Path
) -> None:
    """New subnets are followed, however many; and all of it is undone, by ``recover``, too."""
    before = holder.picture()
    many = [f"10.{100 + n // 250}.{n % 250}.1/24" for n in range(500)]

    def change(words: str) -> None:
        space.client.ip(*(f"addr {words} {address} dev up0" for address in many))

    def rules() -> int:
        return execute(space, "ip rule").count(" to 10.10")

    with disk(tmp_path / "state", "size=256k") as state, holder_on(space, state) as second:
        for end in ("stop", "kill"):
            second.apply(state_dir=str(state))
            fill(state)
            with detector.watching() as found:
                change("add")
                until(lambda: rules() == len(many), 90)
                fast_probers.rounds()
                if end == "kill":
                    second.end("kill")
                    fast_probers.rounds()
                    second.order("^JournalError: .*", {"state_dir": str(state)}, wait=1)
                    fast_probers.rounds()
            nothing(found)
            change("del")
            if end == "kill":
                assert second.recover()["left"] == []
            else:
                second.end()
                assert second.child.stdout[-1] == "ended 0"
            (state / "filler").unlink()
            same(before, holder.picture_like(before), end)
