"""The Windows Filtering Platform by ctypes: our filters, in a sublayer and of a provider of ours.

A filter's description is the line that it was made of, by which it is told what is in force.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
from collections.abc import Callable, Iterator, Sequence
from ctypes import POINTER, c_uint32, c_uint64, c_void_p, c_wchar_p, pointer
from typing import Any, NamedTuple

from ...net.windows import last_error
from ..plan.windows.filters import Filter
from .structures import (
    FIELDS,
    LAYERS,
    Blob,
    Condition,
    FilterData,
    FilterValue,
    ProviderData,
    SublayerData,
    V4Mask,
    V6Mask,
    guid,
)

__all__ = [
    "PROVIDER",
    "SUBLAYER",
    "Engine",
    "Loaded",
    "MadeFilter",
    "make_filter",
    "make_tun_filters",
]

PROVIDER = "1f5a9c52-7a6b-4c0e-9d52-6f0e2d1c7a01"
SUBLAYER = "1f5a9c52-7a6b-4c0e-9d52-6f0e2d1c7a02"
_NAME = "zks_lwip"
_TUN = "tun"  # the description of the filters that let the TUN through
FWPM_PERSISTENT = 1
FWP_UINT8, FWP_UINT16, FWP_UINT32, FWP_UINT64, FWP_BYTE_BLOB_TYPE = 1, 2, 3, 4, 12
FWP_V4_ADDR_MASK, FWP_V6_ADDR_MASK = 0x100, 0x101
FWP_MATCH_EQUAL, FWP_MATCH_FLAGS_ALL_SET = 0, 6
FWP_CONDITION_FLAG_IS_LOOPBACK = 1
FWP_ACTION_BLOCK, FWP_ACTION_PERMIT = 0x1001, 0x1002
FWP_E_NOT_FOUND = {"filter": 0x80320003, "provider": 0x80320005, "sublayer": 0x80320007}
RPC_C_AUTHN_DEFAULT = 0xFFFFFFFF
_PROTOCOLS = {"tcp": 6, "udp": 17, "icmp6": 58}
_TOP_WEIGHT = 1 << 32
_AT_ONCE = 256  # filters of a look


class MadeFilter(NamedTuple):
    """A filter as Windows takes it."""

    data: FilterData
    kept: list[Any]
    """What it points to."""


class Loaded(NamedTuple):
    """A filter of ours that is in force."""

    id: int
    line: str
    persistent: bool
    luid: int
    """Of the interface that it is about; 0: of none."""


def make_filter(one: Filter, weight: int, *, persistent: bool, program: Blob | None) -> MadeFilter:
    """Return a filter as Windows takes it.

    :param weight: the greater goes before the less.
    :param program: what stands for this program.
    """
    kept: list[Any] = []
    conditions: list[Condition] = []

    def add(name: str, kind: int, value: int, match: int = FWP_MATCH_EQUAL) -> None:
        made = FilterValue(type=kind, uint64=value)
        conditions.append(Condition(guid(FIELDS[name]), match, made))

    def point(name: str, kind: int, value: ctypes.Structure) -> None:
        kept.append(value)
        add(name, kind, ctypes.addressof(value))

    if one.loopback:
        add("flags", FWP_UINT32, FWP_CONDITION_FLAG_IS_LOOPBACK, FWP_MATCH_FLAGS_ALL_SET)
    if one.own:
        assert program is not None
        point("program", FWP_BYTE_BLOB_TYPE, program)
    if one.protocol is not None:
        add("protocol", FWP_UINT8, _PROTOCOLS[one.protocol])
    if one.icmp_type is not None:
        add("local_port", FWP_UINT16, one.icmp_type)
    if one.local_port is not None:
        add("local_port", FWP_UINT16, one.local_port)
    if one.remote_port is not None:
        add("remote_port", FWP_UINT16, one.remote_port)
    if isinstance(one.network, ipaddress.IPv4Network):
        v4 = V4Mask(int(one.network.network_address), int(one.network.netmask))
        point("peer", FWP_V4_ADDR_MASK, v4)
    elif one.network is not None:
        packed = one.network.network_address.packed
        v6 = V6Mask((ctypes.c_ubyte * 16)(*packed), one.network.prefixlen)
        point("peer", FWP_V6_ADDR_MASK, v6)
    layer = LAYERS[one.direction, one.version]
    action = FWP_ACTION_PERMIT if one.action == "permit" else FWP_ACTION_BLOCK
    return _assemble(str(one), layer, action, weight, conditions, kept, persistent=persistent)


def make_tun_filters(luid: int) -> list[MadeFilter]:
    """Return the filters that let everything through that goes by an interface."""
    made = []
    for layer in LAYERS.values():
        number = c_uint64(luid)
        value = FilterValue(type=FWP_UINT64, uint64=ctypes.addressof(number))
        condition = Condition(guid(FIELDS["interface"]), FWP_MATCH_EQUAL, value)
        made.append(
            _assemble(
                *(_TUN, layer, FWP_ACTION_PERMIT, _TOP_WEIGHT, [condition], [number]),
                persistent=False,
            )
        )
    return made


def _assemble(
    line: str,
    layer: str,
    action: int,
    weight: int,
    conditions: list[Condition],
    kept: list[Any],
    *,
    persistent: bool,
) -> MadeFilter:
    array = (Condition * len(conditions))(*conditions)
    provider, exact = guid(PROVIDER), c_uint64(weight)
    data = FilterData()
    data.displayData.name, data.displayData.description = _NAME, line
    data.flags = FWPM_PERSISTENT if persistent else 0
    data.providerKey = pointer(provider)
    data.layerKey, data.subLayerKey = guid(layer), guid(SUBLAYER)
    data.weight = FilterValue(type=FWP_UINT64, uint64=ctypes.addressof(exact))
    data.numFilterConditions = len(conditions)
    data.filterCondition = ctypes.cast(array, POINTER(Condition))
    data.action.type = action
    return MadeFilter(data, [*kept, array, provider, exact])


class Engine:
    """The filter engine of this machine, open until :meth:`close`.

    :param library: ``fwpuclnt.dll``.
    :raises WindowsCallError: it cannot be opened.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._handle = c_void_p()
        self._call(
            "FwpmEngineOpen0",
            None,
            c_uint32(RPC_C_AUTHN_DEFAULT),
            None,
            None,
            pointer(self._handle),
        )

    def _call(self, name: str, *arguments: Any, missing: int = 0) -> None:
        function = self._library[name]
        function.restype = c_uint32
        code = function(*arguments)
        if code not in (0, missing):
            raise last_error(code)

    def close(self) -> None:
        """Let go of the engine; the filters stay."""
        self._call("FwpmEngineClose0", self._handle)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Do all of a block, or nothing."""
        self._call("FwpmTransactionBegin0", self._handle, c_uint32(0))
        try:
            yield
            self._call("FwpmTransactionCommit0", self._handle)
        except BaseException:
            self._call("FwpmTransactionAbort0", self._handle)
            raise

    def program(self, path: str) -> Blob:
        """Return what stands for a program in filters; kept until the process ends."""
        found = POINTER(Blob)()
        self._call("FwpmGetAppIdFromFileName0", c_wchar_p(path), pointer(found))
        return found.contents

    def loaded(self) -> list[Loaded]:
        """Return the filters of ours that are in force."""
        handle = c_void_p()
        found: list[Loaded] = []
        self._call("FwpmFilterCreateEnumHandle0", self._handle, None, pointer(handle))
        try:
            while True:
                entries, count = POINTER(POINTER(FilterData))(), c_uint32()
                self._call(
                    *("FwpmFilterEnum0", self._handle, handle, c_uint32(_AT_ONCE)),
                    *(pointer(entries), pointer(count)),
                )
                if not count.value:
                    return found
                try:
                    for i in range(count.value):
                        if (one := _read(entries[i].contents)) is not None:
                            found.append(one)
                finally:
                    self._free(entries)
        finally:
            self._call("FwpmFilterDestroyEnumHandle0", self._handle, handle)

    def _free(self, what: Any) -> None:
        release: Callable[..., None] = self._library["FwpmFreeMemory0"]
        release(pointer(what))

    def replace(self, filters: Sequence[MadeFilter], *, persistent: bool) -> None:
        """Put these in place of all that are ours, within a transaction."""
        self.remove()
        provider, sublayer = ProviderData(), SublayerData()
        key = guid(PROVIDER)
        provider.providerKey, provider.displayData.name = key, _NAME
        sublayer.subLayerKey, sublayer.displayData.name = guid(SUBLAYER), _NAME
        sublayer.providerKey = pointer(key)
        provider.flags = sublayer.flags = FWPM_PERSISTENT if persistent else 0
        sublayer.weight = 0xFFFF
        self._call("FwpmProviderAdd0", self._handle, pointer(provider), None)
        self._call("FwpmSubLayerAdd0", self._handle, pointer(sublayer), None)
        self.add(filters)

    def add(self, filters: Sequence[MadeFilter]) -> None:
        """Add filters, within a transaction."""
        for made in filters:
            self._call("FwpmFilterAdd0", self._handle, pointer(made.data), None, None)

    def remove(self, *, only_tun: bool = False) -> None:
        """Remove our filters, within a transaction.

        :param only_tun: those alone that let the TUN through.
        """
        for one in self.loaded():
            if one.line == _TUN or not only_tun:
                self._call(
                    *("FwpmFilterDeleteById0", self._handle, c_uint64(one.id)),
                    missing=FWP_E_NOT_FOUND["filter"],
                )
        if only_tun:
            return
        for name, kind, key in (
            ("FwpmSubLayerDeleteByKey0", "sublayer", SUBLAYER),
            ("FwpmProviderDeleteByKey0", "provider", PROVIDER),
        ):
            self._call(name, self._handle, pointer(guid(key)), missing=FWP_E_NOT_FOUND[kind])


def _read(data: FilterData) -> Loaded | None:
    """Return a filter, if it is ours."""
    if not data.providerKey or bytes(data.providerKey.contents) != bytes(guid(PROVIDER)):
        return None
    luid = 0
    line = data.displayData.description or ""
    if line == _TUN and data.numFilterConditions:
        luid = c_uint64.from_address(data.filterCondition[0].conditionValue.uint64).value
    return Loaded(data.filterId, line, bool(data.flags & FWPM_PERSISTENT), luid)
