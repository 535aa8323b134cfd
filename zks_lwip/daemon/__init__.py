"""A running instance of ``connect``, and how it is told what to do.

:func:`run_instance` runs one in this process; :func:`ask_running` and :func:`stop_running` reach
one in another process over its control socket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy_names

if TYPE_CHECKING:
    from .access import Access, parse_allow_exclude
    from .client import (
        InstanceStopped,
        NotRunning,
        ask_running,
        ask_status,
        check_nothing_left,
        reload_running,
        stop_running,
    )
    from .control import serve_control
    from .instance import Instance
    from .pause import Pauses
    from .place import control_path
    from .run import Display, run_instance
    from .states import EXIT_CODES, MAX_SECONDS, TIME_OVER, State, Status, no_status
    from .systemd import notify

__all__ = [
    "EXIT_CODES",
    "MAX_SECONDS",
    "TIME_OVER",
    "Access",
    "Display",
    "Instance",
    "InstanceStopped",
    "NotRunning",
    "Pauses",
    "State",
    "Status",
    "ask_running",
    "ask_status",
    "check_nothing_left",
    "control_path",
    "no_status",
    "notify",
    "parse_allow_exclude",
    "reload_running",
    "run_instance",
    "serve_control",
    "stop_running",
]

if not TYPE_CHECKING:  # type checkers read the imports above
    __getattr__ = lazy_names(
        __name__,
        {
            "access": "Access parse_allow_exclude",
            "client": "InstanceStopped NotRunning ask_running ask_status check_nothing_left"
            " reload_running stop_running",
            "control": "serve_control",
            "instance": "Instance",
            "pause": "Pauses",
            "place": "control_path",
            "run": "Display run_instance",
            "states": "EXIT_CODES MAX_SECONDS TIME_OVER State Status no_status",
            "systemd": "notify",
        },
    )
