"""This process as a service of Windows: it tells its state, and ends when it is told to.

Windows' dispatcher keeps a thread of its own, so that the main one is trio's, and signals come to
it: told to stop, it sees SIGTERM.
"""

from __future__ import annotations

import _thread
import ctypes
import signal
import threading
from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, Structure, c_int32, c_uint32, c_void_p, c_wchar_p
from typing import Any, Protocol

from ..errors import HostError
from ..net.windows import WindowsCallError, last_error

__all__ = [
    "ACCEPTED",
    "ERROR_CALL_NOT_IMPLEMENTED",
    "ERROR_FAILED_SERVICE_CONTROLLER_CONNECT",
    "ERROR_SERVICE_SPECIFIC_ERROR",
    "SERVICE_CONTROL_INTERROGATE",
    "SERVICE_CONTROL_PRESHUTDOWN",
    "SERVICE_CONTROL_SHUTDOWN",
    "SERVICE_CONTROL_STOP",
    "SERVICE_RUNNING",
    "SERVICE_STOPPED",
    "SERVICE_STOP_PENDING",
    "SERVICE_WIN32_OWN_PROCESS",
    "Dispatcher",
    "ServiceStatus",
    "ServiceTableEntry",
    "WindowsDispatcher",
    "run_service",
]

SERVICE_WIN32_OWN_PROCESS = 0x10
SERVICE_STOPPED, SERVICE_STOP_PENDING, SERVICE_RUNNING = 1, 3, 4
SERVICE_CONTROL_STOP, SERVICE_CONTROL_INTERROGATE = 1, 4
SERVICE_CONTROL_SHUTDOWN, SERVICE_CONTROL_PRESHUTDOWN = 5, 15
ACCEPTED = 0x1 | 0x4 | 0x100
"""SERVICE_ACCEPT_STOP, _SHUTDOWN and _PRESHUTDOWN."""
ERROR_CALL_NOT_IMPLEMENTED, ERROR_SERVICE_SPECIFIC_ERROR = 120, 1066
ERROR_FAILED_SERVICE_CONTROLLER_CONNECT = 1063
_HINT = 20_000
"""Milliseconds until Windows takes a service that stops for one that hangs."""
_AGAIN = 0.25
_STARTED = 30.0


class ServiceStatus(Structure):
    """``SERVICE_STATUS``."""

    _fields_ = (
        ("dwServiceType", c_uint32),
        ("dwCurrentState", c_uint32),
        ("dwControlsAccepted", c_uint32),
        ("dwWin32ExitCode", c_uint32),
        ("dwServiceSpecificExitCode", c_uint32),
        ("dwCheckPoint", c_uint32),
        ("dwWaitHint", c_uint32),
    )


_MAIN = CFUNCTYPE(None, c_uint32, c_void_p)
_HANDLER = CFUNCTYPE(c_uint32, c_uint32, c_uint32, c_void_p, c_void_p)


class ServiceTableEntry(Structure):
    """``SERVICE_TABLE_ENTRYW``."""

    _fields_ = (("lpServiceName", c_wchar_p), ("lpServiceProc", c_void_p))


class Dispatcher(Protocol):
    """What Windows does for a service."""

    def dispatch(self, begin: Callable[[], None], control: Callable[[int], int]) -> None:
        """Take a service up; returns when it has told that it has stopped.

        :param begin: called in a thread of its own; its return says nothing.
        :param control: called with what the service is told; returns an error of winerror.h.
        :raises WindowsCallError: Windows has not started this process as a service.
        """
        ...

    def tell(self, state: int, *, code: int = 0) -> None:
        """Tell the state.

        :param code: what a service that has stopped has ended with.
        :raises WindowsCallError: Windows does not take it.
        """
        ...


def run_service(
    work: Callable[[], int], dispatcher: Dispatcher, *, stop: Callable[[], object] | None = None
) -> int:
    """Do the work of a service, in this thread, and return what it has ended with.

    :param work: ends when there is a SIGTERM.
    :param stop: makes that signal; called again until the work has ended.
    :raises HostError: Windows has not started this process as a service.
    """
    stop = stop or (lambda: _thread.interrupt_main(signal.SIGTERM))
    began, asked, done = threading.Event(), threading.Event(), threading.Event()
    failed: list[WindowsCallError] = []

    def begin() -> None:
        dispatcher.tell(SERVICE_RUNNING)
        began.set()
        done.wait()

    def control(what: int) -> int:
        if what in (SERVICE_CONTROL_STOP, SERVICE_CONTROL_SHUTDOWN, SERVICE_CONTROL_PRESHUTDOWN):
            dispatcher.tell(SERVICE_STOP_PENDING)
            asked.set()
            return 0
        return 0 if what == SERVICE_CONTROL_INTERROGATE else ERROR_CALL_NOT_IMPLEMENTED

    def dispatch() -> None:
        try:
            dispatcher.dispatch(begin, control)
        except WindowsCallError as error:
            failed.append(error)
            began.set()

    def end() -> None:
        asked.wait()
        while not done.is_set():  # the first may come before there is anything to be stopped
            stop()
            done.wait(_AGAIN)

    threads = [threading.Thread(target=each, daemon=True) for each in (dispatch, end)]
    for each in threads:
        each.start()
    if not began.wait(_STARTED) or failed:
        raise HostError(
            "Windows has not started this as a service: `zks-lwip service start` has it do so"
        ) from (failed[0] if failed else None)
    code = 1
    try:
        code = work()
    finally:
        done.set()
        asked.set()
        dispatcher.tell(SERVICE_STOPPED, code=code)
    for each in threads:
        each.join()
    return code


class WindowsDispatcher:
    """Windows itself.

    :param name: of the service.
    """

    def __init__(self, name: str, library: Any = None) -> None:
        self._name = name
        self._library = library or ctypes.CDLL("advapi32.dll", use_last_error=True)
        self._handle: int | None = None

    def dispatch(self, begin: Callable[[], None], control: Callable[[int], int]) -> None:
        take_up = self._function("StartServiceCtrlDispatcherW", c_int32, c_void_p)
        register = self._function(
            "RegisterServiceCtrlHandlerExW", c_void_p, c_wchar_p, _HANDLER, c_void_p
        )
        handler = _HANDLER(lambda what, kind, data, context: control(what))

        def main(count: int, arguments: int | None) -> None:
            self._handle = register(self._name, handler, None)
            begin()

        entry = _MAIN(main)
        table = (ServiceTableEntry * 2)(
            ServiceTableEntry(self._name, ctypes.cast(entry, c_void_p)), ServiceTableEntry()
        )
        if not take_up(table):
            raise last_error()

    def tell(self, state: int, *, code: int = 0) -> None:
        change = self._function("SetServiceStatus", c_int32, c_void_p, POINTER(ServiceStatus))
        status = ServiceStatus(
            dwServiceType=SERVICE_WIN32_OWN_PROCESS,
            dwCurrentState=state,
            dwControlsAccepted=ACCEPTED if state == SERVICE_RUNNING else 0,
            dwWin32ExitCode=ERROR_SERVICE_SPECIFIC_ERROR if code else 0,
            dwServiceSpecificExitCode=code,
            dwWaitHint=_HINT if state == SERVICE_STOP_PENDING else 0,
        )
        if not change(self._handle, ctypes.pointer(status)):
            raise last_error()

    def _function(self, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
        found = self._library[name]
        found.restype, found.argtypes = result, list(arguments)
        return found
