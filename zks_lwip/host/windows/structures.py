"""Structures of the IP Helper API and the Windows Filtering Platform, of 64-bit Windows.

They and their numbers are compared with the SDK's headers by a compiler, but for the names (GUIDs)
of layers and fields, which the compiler's headers do not have
(``tests/unit/test_windows_headers.py``).
"""

from __future__ import annotations

import ctypes
import ipaddress
import uuid
from ctypes import c_int32, c_int64, c_ubyte, c_uint8, c_uint16, c_uint32, c_uint64, c_void_p

from ...net.windows import Guid

__all__ = [
    "ADDRESSES",
    "ALL_FAMILIES",
    "ActionData",
    "AddressRow",
    "AddressTable",
    "Blob",
    "Condition",
    "DisplayData",
    "FAMILIES",
    "FIELDS",
    "FilterData",
    "FilterValue",
    "InterfaceRow",
    "InterfaceTable",
    "IpInterfaceRow",
    "LAYERS",
    "Prefix",
    "ProviderData",
    "RouteRow",
    "RouteTable",
    "SockaddrInet",
    "SublayerData",
    "V4Mask",
    "V6Mask",
    "guid",
    "pack_address",
    "unpack_address",
]

FAMILIES = {4: 2, 6: 23}
"""AF_INET, AF_INET6."""
ALL_FAMILIES = 0
ADDRESSES = {2: ipaddress.IPv4Address, 23: ipaddress.IPv6Address}


def guid(text: str) -> Guid:
    """Return a GUID of its usual form."""
    return Guid.from_buffer_copy(uuid.UUID(text).bytes_le)


class SockaddrInet(ctypes.Structure):
    """``SOCKADDR_INET``: of IPv4 the address is the first word; of IPv6 it is preceded by the flow
    and followed by the number of the zone.
    """

    _fields_ = (("si_family", c_uint16), ("port", c_uint16), ("words", c_uint32 * 6))


def pack_address(text: str) -> SockaddrInet:
    """Return an address, without a port; one of IPv6 with the number of its zone, if it has one."""
    bare, _, zone = text.partition("%")
    address = ipaddress.ip_address(bare)
    made = SockaddrInet(si_family=FAMILIES[address.version])
    raw = address.packed if address.version == 4 else bytes(4) + address.packed
    ctypes.memmove(made.words, raw, len(raw))
    made.words[5] = int(zone or 0)
    return made


def unpack_address(raw: SockaddrInet) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the address, without its zone."""
    data = bytes(raw.words)
    return ipaddress.ip_address(data[:4] if raw.si_family == FAMILIES[4] else data[4:20])


class Prefix(ctypes.Structure):
    """``IP_ADDRESS_PREFIX``."""

    _fields_ = (("Prefix", SockaddrInet), ("PrefixLength", c_uint8))


class AddressRow(ctypes.Structure):
    """``MIB_UNICASTIPADDRESS_ROW``."""

    _fields_ = (
        ("Address", SockaddrInet),
        ("InterfaceLuid", c_uint64),
        ("InterfaceIndex", c_uint32),
        ("PrefixOrigin", c_int32),
        ("SuffixOrigin", c_int32),
        ("ValidLifetime", c_uint32),
        ("PreferredLifetime", c_uint32),
        ("OnLinkPrefixLength", c_uint8),
        ("SkipAsSource", c_ubyte),
        ("DadState", c_int32),
        ("ScopeId", c_uint32),
        ("CreationTimeStamp", c_int64),
    )


class RouteRow(ctypes.Structure):
    """``MIB_IPFORWARD_ROW2``."""

    _fields_ = (
        ("InterfaceLuid", c_uint64),
        ("InterfaceIndex", c_uint32),
        ("DestinationPrefix", Prefix),
        ("NextHop", SockaddrInet),
        ("SitePrefixLength", c_ubyte),
        ("ValidLifetime", c_uint32),
        ("PreferredLifetime", c_uint32),
        ("Metric", c_uint32),
        ("Protocol", c_int32),
        ("Loopback", c_ubyte),
        ("AutoconfigureAddress", c_ubyte),
        ("Publish", c_ubyte),
        ("Immortal", c_ubyte),
        ("Age", c_uint32),
        ("Origin", c_int32),
    )


class IpInterfaceRow(ctypes.Structure):
    """``MIB_IPINTERFACE_ROW``."""

    _fields_ = (
        ("Family", c_uint16),
        ("InterfaceLuid", c_uint64),
        ("InterfaceIndex", c_uint32),
        ("MaxReassemblySize", c_uint32),
        ("InterfaceIdentifier", c_uint64),
        ("MinRouterAdvertisementInterval", c_uint32),
        ("MaxRouterAdvertisementInterval", c_uint32),
        ("AdvertisingEnabled", c_ubyte),
        ("ForwardingEnabled", c_ubyte),
        ("WeakHostSend", c_ubyte),
        ("WeakHostReceive", c_ubyte),
        ("UseAutomaticMetric", c_ubyte),
        ("UseNeighborUnreachabilityDetection", c_ubyte),
        ("ManagedAddressConfigurationSupported", c_ubyte),
        ("OtherStatefulConfigurationSupported", c_ubyte),
        ("AdvertiseDefaultRoute", c_ubyte),
        ("RouterDiscoveryBehavior", c_int32),
        ("DadTransmits", c_uint32),
        ("BaseReachableTime", c_uint32),
        ("RetransmitTime", c_uint32),
        ("PathMtuDiscoveryTimeout", c_uint32),
        ("LinkLocalAddressBehavior", c_int32),
        ("LinkLocalAddressTimeout", c_uint32),
        ("ZoneIndices", c_uint32 * 16),
        ("SitePrefixLength", c_uint32),
        ("Metric", c_uint32),
        ("NlMtu", c_uint32),
        ("Connected", c_ubyte),
        ("SupportsWakeUpPatterns", c_ubyte),
        ("SupportsNeighborDiscovery", c_ubyte),
        ("SupportsRouterDiscovery", c_ubyte),
        ("ReachableTime", c_uint32),
        ("TransmitOffload", c_ubyte),
        ("ReceiveOffload", c_ubyte),
        ("DisableDefaultRoutes", c_ubyte),
    )


class InterfaceRow(ctypes.Structure):
    """``MIB_IF_ROW2``."""

    _fields_ = (
        ("InterfaceLuid", c_uint64),
        ("InterfaceIndex", c_uint32),
        ("InterfaceGuid", Guid),
        ("Alias", c_uint16 * 257),
        ("Description", c_uint16 * 257),
        ("PhysicalAddressLength", c_uint32),
        ("PhysicalAddress", c_ubyte * 32),
        ("PermanentPhysicalAddress", c_ubyte * 32),
        ("Mtu", c_uint32),
        ("Type", c_uint32),
        ("TunnelType", c_int32),
        ("MediaType", c_int32),
        ("PhysicalMediumType", c_int32),
        ("AccessType", c_int32),
        ("DirectionType", c_int32),
        ("InterfaceAndOperStatusFlags", c_ubyte),
        ("OperStatus", c_int32),
        ("AdminStatus", c_int32),
        ("MediaConnectState", c_int32),
        ("NetworkGuid", Guid),
        ("ConnectionType", c_int32),
        ("TransmitLinkSpeed", c_uint64),
        ("ReceiveLinkSpeed", c_uint64),
        ("InOctets", c_uint64),
        ("others", c_uint64 * 17),
    )

    @property
    def name(self) -> str:
        """What the user calls the interface."""
        return bytes(self.Alias).decode("utf-16-le").partition("\0")[0]


class InterfaceTable(ctypes.Structure):
    """``MIB_IF_TABLE2``: the rows lie one behind the other."""

    _fields_ = (("NumEntries", c_uint32), ("Table", InterfaceRow * 1))


class AddressTable(ctypes.Structure):
    """``MIB_UNICASTIPADDRESS_TABLE``."""

    _fields_ = (("NumEntries", c_uint32), ("Table", AddressRow * 1))


class RouteTable(ctypes.Structure):
    """``MIB_IPFORWARD_TABLE2``."""

    _fields_ = (("NumEntries", c_uint32), ("Table", RouteRow * 1))


LAYERS = {
    ("out", 4): "c38d57d1-05a7-4c33-904f-7fbceee60e82",
    ("out", 6): "4a72393b-319f-44bc-84c3-ba54dcb3b6b4",
    ("in", 4): "e1cd9fe7-f4b5-4273-96c0-592e487b8650",
    ("in", 6): "a3b42c97-9f04-4672-b87e-cee9c483257f",
}
"""``FWPM_LAYER_ALE_AUTH_CONNECT_V4``, ``_V6``, ``FWPM_LAYER_ALE_AUTH_RECV_ACCEPT_V4``, ``_V6``."""
FIELDS = {
    "interface": "4cd62a49-59c3-4969-b7f3-bda5d32890a4",
    "peer": "b235ae9a-1d64-49b8-a44c-5ff3d9095045",
    "protocol": "3971ef2b-623e-4f9a-8cb1-6e79b806b9a7",
    "local_port": "0c1ba1af-5765-453f-af22-a8f791ac775b",
    "remote_port": "c35a604d-d22b-4e1a-91b4-68f674ee674b",
    "program": "d78e1e87-8644-4ea5-9437-d809ecefc971",
    "flags": "632ce23b-5167-435c-86d7-e903684aa80c",
}
"""``FWPM_CONDITION_IP_LOCAL_INTERFACE``, ``_IP_REMOTE_ADDRESS``, ``_IP_PROTOCOL``,
``_IP_LOCAL_PORT`` (of ICMP: its type), ``_IP_REMOTE_PORT``, ``_ALE_APP_ID``, ``_FLAGS``."""


class DisplayData(ctypes.Structure):
    """``FWPM_DISPLAY_DATA0``."""

    _fields_ = (("name", ctypes.c_wchar_p), ("description", ctypes.c_wchar_p))


class Blob(ctypes.Structure):
    """``FWP_BYTE_BLOB``."""

    _fields_ = (("size", c_uint32), ("data", c_void_p))


class V4Mask(ctypes.Structure):
    """``FWP_V4_ADDR_AND_MASK``, both in the machine's byte order."""

    _fields_ = (("addr", c_uint32), ("mask", c_uint32))


class V6Mask(ctypes.Structure):
    """``FWP_V6_ADDR_AND_MASK``."""

    _fields_ = (("addr", c_ubyte * 16), ("prefixLength", c_uint8))


class FilterValue(ctypes.Structure):
    """``FWP_VALUE0`` and ``FWP_CONDITION_VALUE0``: a number, or where something larger lies."""

    _fields_ = (("type", c_int32), ("uint64", c_uint64))


class Condition(ctypes.Structure):
    """``FWPM_FILTER_CONDITION0``."""

    _fields_ = (("fieldKey", Guid), ("matchType", c_int32), ("conditionValue", FilterValue))


class ActionData(ctypes.Structure):
    """``FWPM_ACTION0``."""

    _fields_ = (("type", c_uint32), ("filterType", Guid))


class FilterData(ctypes.Structure):
    """``FWPM_FILTER0``."""

    _fields_ = (
        ("filterKey", Guid),
        ("displayData", DisplayData),
        ("flags", c_uint32),
        ("providerKey", ctypes.POINTER(Guid)),
        ("providerData", Blob),
        ("layerKey", Guid),
        ("subLayerKey", Guid),
        ("weight", FilterValue),
        ("numFilterConditions", c_uint32),
        ("filterCondition", ctypes.POINTER(Condition)),
        ("action", ActionData),
        ("providerContextKey", c_uint64 * 2),  # a union with a number of 64 bits
        ("reserved", c_void_p),
        ("filterId", c_uint64),
        ("effectiveWeight", FilterValue),
    )


class ProviderData(ctypes.Structure):
    """``FWPM_PROVIDER0``."""

    _fields_ = (
        ("providerKey", Guid),
        ("displayData", DisplayData),
        ("flags", c_uint32),
        ("providerData", Blob),
        ("serviceName", ctypes.c_wchar_p),
    )


class SublayerData(ctypes.Structure):
    """``FWPM_SUBLAYER0``."""

    _fields_ = (
        ("subLayerKey", Guid),
        ("displayData", DisplayData),
        ("flags", c_uint16),
        ("providerKey", ctypes.POINTER(Guid)),
        ("providerData", Blob),
        ("weight", c_uint16),
    )
