"""rtnetlink(7) by a plain socket, its messages written and read by pyroute2.

pyroute2's own socket, ``IPRoute``, brings an event loop, traffic control and all other messages
along: loading them takes nearly a tenth of the start of ``connect``. The ``__init__`` of pyroute2,
which imports all that it has, is put off here until one asks for a name of it. For other users of
pyroute2 in this process nothing is different: ``pyroute2.NDB`` and ``from pyroute2 import NDB`` run
that ``__init__`` first.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from typing import Any, Literal

__all__ = ["NetlinkError", "Rtnetlink", "open_rtnetlink"]

Kind = Literal["route", "rule", "addr", "link"]


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

from pyroute2.netlink.exceptions import NetlinkError  # noqa: E402
from pyroute2.netlink.rtnl.fibmsg import fibmsg  # noqa: E402
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg  # noqa: E402
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg  # noqa: E402
from pyroute2.netlink.rtnl.rtmsg import rtmsg  # noqa: E402

# Of linux/netlink.h.
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_REPLACE, _EXCL, _CREATE = 0x100, 0x200, 0x400
_ERROR, _DONE = 2, 3
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence number, port
_CODE = struct.Struct("=i")
_BUFFER = 1 << 16
"""Bytes of one read: the kernel fills no more than half of it with one part of a list."""

_TYPES: Mapping[Kind, tuple[type[Any], int]] = {
    "link": (ifinfmsg, 16),
    "addr": (ifaddrmsg, 20),
    "route": (rtmsg, 24),
    "rule": (fibmsg, 32),
}
"""Of each kind the message, and the first of its four types: new, delete, get, set."""
_COMMANDS = {
    "add": (0, _CREATE | _EXCL),
    "replace": (0, _CREATE | _REPLACE),
    "set": (0, 0),
    "del": (1, 0),
    "get": (2, 0),
}
_UP = 1  # IFF_UP
_MAX_TABLE = 255
_OTHER_TABLE = 252
"""RT_TABLE_COMPAT: the table's number is an attribute, as it does not fit into a byte."""


class Rtnetlink:
    """A socket of rtnetlink in the network namespace of the thread that makes it; it blocks.

    Its messages are pyroute2's: fields by ``[]``, attributes by ``get_attr``.

    :raises OSError: there is no descriptor for it.
    """

    def __init__(self) -> None:
        self._number = 0
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        try:
            self._socket.bind((0, 0))
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Rtnetlink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; twice is harmless."""
        self._socket.close()

    def dump(self, kind: Kind, family: int = socket.AF_UNSPEC) -> list[Any]:
        """Return all of a kind that there are, of one family or of every one.

        :raises NetlinkError: the kernel refuses.
        """
        made, first = _TYPES[kind]
        message = made()
        message["family"] = family
        return list(self._ask(message, first + 2, _DUMP))

    def request(self, kind: Kind, command: str, **values: Any) -> list[Any]:
        """Have the kernel do something.

        :param command: ``add``, ``replace``, ``set``, ``del`` or ``get``.
        :param values: fields of the message, and attributes by their names without prefix, in small
            letters; ``src`` and ``dst`` may have a prefix length, and ``state`` of a link is
            ``up``.
        :returns: what it answers, if anything.
        :raises NetlinkError: it refuses.
        """
        made, first = _TYPES[kind]
        number, flags = _COMMANDS[command]
        return list(self._ask(_written(made(), values), first + number, _ACK | flags))

    def _ask(self, message: Any, kind: int, flags: int) -> Iterator[Any]:
        self._number += 1
        message["header"]["type"] = kind
        message["header"]["flags"] = _REQUEST | flags
        message["header"]["sequence_number"] = self._number
        message.encode()
        self._socket.send(message.data)
        while True:
            data, (sender, _) = self._socket.recvfrom(_BUFFER)
            position = 0
            while sender == 0 and position + _HEADER.size <= len(data):  # from the kernel
                length, answer, _, number, _ = _HEADER.unpack_from(data, position)
                end = position + max(length, _HEADER.size)
                if number == self._number:
                    if answer in (_ERROR, _DONE):
                        (code,) = _CODE.unpack_from(data, position + _HEADER.size)
                        if code:
                            raise NetlinkError(-code)
                        return
                    read = type(message)(data[position:end])
                    read.decode()
                    yield read
                position = end + -end % 4


def _written(message: Any, values: Mapping[str, Any]) -> Any:
    """Return a message with fields and attributes, as :meth:`Rtnetlink.request` names them."""
    fields = {field[0] for field in message.fields}
    attributes = message["attrs"] = []
    for name, value in values.items():
        if name == "state":
            message["flags"] = message["change"] = _UP
            continue
        if name in ("src", "dst"):
            value, _, length = str(value).partition("/")
            full = 128 if ":" in value else 32
            message[f"{name}_len"] = int(length or full)
        if name in fields:
            message[name] = value
        if name == "table" and value > _MAX_TABLE:
            message[name] = _OTHER_TABLE
        attribute = message.name2nla(name)
        if message.valid_nla(attribute):
            attributes.append([attribute, value])
    return message


def open_rtnetlink() -> Rtnetlink:
    """Open rtnetlink in the network namespace of this thread.

    :raises OSError: there is no descriptor for it.
    """
    return Rtnetlink()
