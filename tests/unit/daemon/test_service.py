"""The service of Windows: what its manager is asked for, and what it is told; both are played."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from zks_lwip.cli import main
from zks_lwip.daemon.service_manager import ServiceManager
from zks_lwip.daemon.service_process import (
    ACCEPTED,
    ERROR_CALL_NOT_IMPLEMENTED,
    ERROR_FAILED_SERVICE_CONTROLLER_CONNECT,
    ERROR_SERVICE_SPECIFIC_ERROR,
    SERVICE_CONTROL_INTERROGATE,
    SERVICE_CONTROL_PRESHUTDOWN,
    SERVICE_CONTROL_SHUTDOWN,
    SERVICE_CONTROL_STOP,
    SERVICE_RUNNING,
    SERVICE_STOP_PENDING,
    SERVICE_STOPPED,
    ServiceStatus,
    WindowsDispatcher,
    run_service,
)
from zks_lwip.errors import ConfigError, HostError, PrivilegeError
from zks_lwip.net.windows import WindowsCallError

QUERY = """
SERVICE_NAME: zks_lwip
        TYPE               : 10  WIN32_OWN_PROCESS
        STATE              : {}  {}
                                (NOT_STOPPABLE, NOT_PAUSABLE, IGNORES_SHUTDOWN)
        WIN32_EXIT_CODE    : 0  (0x0)
"""


class PlayedSc:
    """``sc.exe``: writes down what it is asked for."""

    def __init__(self, **codes: int) -> None:
        self.codes = codes
        self.asked: list[list[str]] = []
        self.states = [(1, "STOPPED")]

    def __call__(self, arguments: Sequence[str]) -> tuple[int, str]:
        self.asked.append(list(arguments))
        if arguments[0] == "query":
            state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
            return self.codes.get("query", 0), QUERY.format(*state)
        return self.codes.get(arguments[0], 0), "[SC] says\r\n\r\nsomething"


def test_it_is_installed_with_what_connect_gets() -> None:
    sc = PlayedSc()
    ServiceManager(sc).install(["--worker", "wss://x.example", "two words"], automatic=True)
    create, description, failure = sc.asked
    assert create[:3] == ["create", "zks_lwip", "binPath="]
    assert create[3].endswith(' zks_lwip service run -- --worker wss://x.example "two words"')
    assert "\n" not in create[3]
    assert create[4:8] == ["start=", "auto", "depend=", "BFE/nsi"]
    assert description[:2] == ["description", "zks_lwip"]
    assert failure[:2] == ["failure", "zks_lwip"] and failure[-1].count("restart/") == 3
    sc.asked.clear()
    ServiceManager(sc).install([], automatic=False)
    assert sc.asked[0][5] == "demand"


def test_the_process_is_python_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of a virtual environment starts another one, which could not be the service."""
    sc = PlayedSc()
    monkeypatch.setattr(sys, "_base_executable", "/python/base")
    ServiceManager(sc).install([], automatic=True)
    assert sc.asked[0][3].startswith("/python/base -P -c ") and sys.path[-1] in sc.asked[0][3]
    monkeypatch.setattr(sys, "_base_executable", sys.executable)
    ServiceManager(sc).install([], automatic=True)
    assert sc.asked[3][3] == f"{sys.executable} -I -m zks_lwip service run --"
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    ServiceManager(sc).install([], automatic=True)
    assert sc.asked[6][3] == f"{sys.executable} service run --"


@pytest.mark.skipif(sys.platform == "win32", reason="there the program is Windows' own")
def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are typed, with a stand-in for sc.exe."""
    folder = tmp_path / "System32"
    folder.mkdir()
    program = folder / "sc.exe"
    program.write_text(f'#!/bin/sh\necho "$1" >>{tmp_path}/asked\necho "  STATE : 1  STOPPED"\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("SystemRoot", str(tmp_path))
    wanted = ["--worker", "wss://worker.example", "--always-on"]
    for arguments in (["install", "--", *wanted], ["start"], ["stop"], ["remove"]):
        done = CliRunner().invoke(main, ["service", *arguments])
        assert done.exit_code == 0, done.output
    asked = (tmp_path / "asked").read_text().split()
    wanted = "create description failure failureflag start stop query stop query delete".split()
    assert asked == wanted
    done = CliRunner().invoke(main, ["service", "install", "--", "--no-such-option"])
    assert done.exit_code == 2 and "No such option" in done.output
    assert (tmp_path / "asked").read_text().split() == asked
    program.write_text("#!/bin/sh\nexit 5\n")
    done = CliRunner().invoke(main, ["service", "start"])
    assert done.exit_code == 3 and "start it from an elevated prompt" in done.output


def test_a_file_by_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "token.txt").touch()
    sc = PlayedSc()
    with pytest.raises(ConfigError, match="give the whole path, .*token.txt"):
        ServiceManager(sc).install(["--token-file", "token.txt"], automatic=True)
    assert sc.asked == []
    ServiceManager(sc).install(["--token-file", str(tmp_path / "token.txt")], automatic=True)


def test_its_end_is_waited_for() -> None:
    sc = PlayedSc()
    sc.states = [(3, "STOP_PENDING"), (3, "STOP_PENDING"), (1, "STOPPED")]
    ServiceManager(sc).remove()
    assert [each[0] for each in sc.asked] == ["stop", "query", "query", "query", "delete"]
    sc.states = [(3, "STOP_PENDING")]
    with pytest.raises(HostError, match="has not ended within 0 s"):
        ServiceManager(sc).remove(seconds=0)
    assert sc.asked[-1][0] == "query"


@pytest.mark.parametrize(
    ("codes", "act", "said"),
    [
        ({"start": 5}, ServiceManager.start, "start it from an elevated prompt"),
        ({"stop": 5}, ServiceManager.remove, "start it from an elevated prompt"),
        ({"start": 1060}, ServiceManager.start, "`sc start zks_lwip` failed: it is not installed"),
        ({"delete": 1072}, ServiceManager.remove, "still being removed"),
        ({"start": 1053}, ServiceManager.start, "`sc start zks_lwip` failed: .SC. says something$"),
        ({"query": 1060}, ServiceManager.stop, "it is not installed"),
    ],
)
def test_what_the_manager_refuses(
    codes: dict[str, int], act: Callable[[ServiceManager], None], said: str
) -> None:
    with pytest.raises((HostError, PrivilegeError), match=said) as caught:
        act(ServiceManager(PlayedSc(**codes)))
    assert isinstance(caught.value, PrivilegeError) is (5 in codes.values())


def test_one_that_is_there_is_not_installed_over() -> None:
    with pytest.raises(HostError, match="installed already: `zks-lwip service remove`"):
        ServiceManager(PlayedSc(create=1073)).install([], automatic=True)


def test_what_is_so_already_is_fine() -> None:
    ServiceManager(PlayedSc(start=1056)).start()
    ServiceManager(PlayedSc(stop=1062)).stop()


class PlayedDispatcher:
    """Takes a service up, and tells it what the test wants."""

    def __init__(self, *controls: int, fails: int = 0) -> None:
        self.controls, self.fails = controls, fails
        self.told: list[tuple[int, int]] = []
        self.answers: list[int] = []
        self.stopped = threading.Event()

    def dispatch(self, begin: Callable[[], None], control: Callable[[int], int]) -> None:
        if self.fails:
            raise WindowsCallError(self.fails, "played")
        thread = threading.Thread(target=begin)
        thread.start()
        self.answers += [control(each) for each in self.controls]
        self.stopped.wait()
        thread.join()

    def tell(self, state: int, *, code: int = 0) -> None:
        self.told.append((state, code))
        if state == SERVICE_STOPPED:
            self.stopped.set()


@pytest.mark.parametrize(
    "control", [SERVICE_CONTROL_STOP, SERVICE_CONTROL_SHUTDOWN, SERVICE_CONTROL_PRESHUTDOWN]
)
def test_told_to_stop_it_ends(control: int) -> None:
    """Also if it hears of that before there is anything to be stopped."""
    dispatcher = PlayedDispatcher(SERVICE_CONTROL_INTERROGATE, 200, control)
    stops: list[int] = []
    enough = threading.Event()

    def stop() -> None:
        stops.append(1)
        if len(stops) == 3:
            enough.set()

    def work() -> int:
        assert enough.wait(60)
        return 0

    assert run_service(work, dispatcher, stop=stop) == 0
    assert dispatcher.answers == [0, ERROR_CALL_NOT_IMPLEMENTED, 0]
    assert sorted(dispatcher.told[:2]) == [(SERVICE_STOP_PENDING, 0), (SERVICE_RUNNING, 0)]
    assert dispatcher.told[2:] == [(SERVICE_STOPPED, 0)]


def test_what_it_ends_with_is_told() -> None:
    dispatcher = PlayedDispatcher()
    assert run_service(lambda: 13, dispatcher) == 13
    assert dispatcher.told == [(SERVICE_RUNNING, 0), (SERVICE_STOPPED, 13)]
    dispatcher = PlayedDispatcher()

    def work() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_service(work, dispatcher)
    assert dispatcher.told[-1] == (SERVICE_STOPPED, 1)


def test_it_is_for_windows_to_start() -> None:
    dispatcher = PlayedDispatcher(fails=ERROR_FAILED_SERVICE_CONTROLLER_CONNECT)
    with pytest.raises(HostError, match="`zks-lwip service start` has it do so"):
        run_service(lambda: 0, dispatcher)
    assert dispatcher.told == []


class PlayedLibrary:
    """``advapi32.dll``: calls what it is given, as Windows does."""

    def __init__(self) -> None:
        self.statuses: list[tuple[int, ...]] = []
        self.handlers: list[Any] = []
        self.answers: list[int] = []

    def __getitem__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            return getattr(self, name)(*arguments)

        return call

    def StartServiceCtrlDispatcherW(self, table: Any) -> int:
        assert table[0].lpServiceName == "zks_lwip" and table[1].lpServiceName is None
        main = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_void_p)(table[0].lpServiceProc)
        main(0, None)
        self.answers.append(self.handlers[0](SERVICE_CONTROL_INTERROGATE, 0, None, None))
        return 1

    def RegisterServiceCtrlHandlerExW(self, name: str, handler: Any, context: None) -> int:
        self.handlers.append(handler)
        return 4711

    def SetServiceStatus(self, handle: int | None, status: Any) -> int:
        if handle != 4711:
            return 0
        given = ServiceStatus.from_buffer_copy(status.contents)
        self.statuses.append(tuple(getattr(given, name) for name, _ in ServiceStatus._fields_))
        return 1


def test_what_windows_is_told() -> None:
    library = PlayedLibrary()
    dispatcher = WindowsDispatcher("zks_lwip", library)
    with pytest.raises(WindowsCallError):
        dispatcher.tell(SERVICE_RUNNING)

    def begin() -> None:
        dispatcher.tell(SERVICE_RUNNING)
        dispatcher.tell(SERVICE_STOP_PENDING)
        dispatcher.tell(SERVICE_STOPPED, code=13)

    dispatcher.dispatch(begin, lambda what: 7 + what)
    assert library.answers == [7 + SERVICE_CONTROL_INTERROGATE]
    assert [each[1:5] for each in library.statuses] == [
        (SERVICE_RUNNING, ACCEPTED, 0, 0),
        (SERVICE_STOP_PENDING, 0, 0, 0),
        (SERVICE_STOPPED, 0, ERROR_SERVICE_SPECIFIC_ERROR, 13),
    ]
    assert library.statuses[1][6] > 0  # or Windows takes it for one that hangs
