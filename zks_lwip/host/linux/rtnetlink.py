"""pyroute2's rtnetlink, without the rest of pyroute2.

pyroute2's own ``__init__`` imports all that it has (nl80211, WireGuard, a database of networks with
psutil, and more), which takes longer than rtnetlink itself. It is put off here until one asks for a
name of it. For other users of pyroute2 in this process nothing is different: ``pyroute2.NDB`` and
``from pyroute2 import NDB`` run that ``__init__`` first.
"""

from __future__ import annotations

import contextlib
import os
import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from typing import Any

__all__ = ["IPRoute", "NetlinkError", "open_rtnetlink"]

_DESCRIPTORS = 8
"""More than one IPRoute takes: sockets, and the event loop of asyncio that it has inside."""


def _put_off_init(package: str) -> None:
    """Have the ``__init__`` of a package run when one of its own names is first used (PEP 562).

    Its modules can be imported before. Does nothing if the package is loaded already.
    """
    spec = None if package in sys.modules else find_spec(package)
    if spec is None or spec.loader is None:
        return
    loader, module = spec.loader, module_from_spec(spec)

    def load(name: str) -> Any:
        if PathFinder.find_spec(f"{package}.{name}", module.__path__):
            raise AttributeError(name)  # a module of it: the import that asks for it loads it
        if module.__dict__.pop("__getattr__", None) is not None:
            loader.exec_module(module)
        return getattr(module, name)

    module.__dict__["__getattr__"] = load
    sys.modules[package] = module


_put_off_init("pyroute2")

from pyroute2.iproute import IPRoute  # noqa: E402
from pyroute2.netlink.exceptions import NetlinkError  # noqa: E402


def open_rtnetlink() -> IPRoute:
    """Open rtnetlink in the network namespace of this thread.

    Whether there are descriptors for it is seen first: an event loop that finds none is reported by
    asyncio with a traceback.

    :raises OSError: they are lacking.
    """
    with contextlib.ExitStack() as tried:
        for _ in range(_DESCRIPTORS):
            tried.callback(os.close, os.open(os.devnull, os.O_RDONLY))
    return IPRoute()
