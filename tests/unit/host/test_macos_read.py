"""What is made of the answers of macOS' programs: golden samples."""

from __future__ import annotations

import pytest

from zks_lwip.host.macos.read import (
    pf_calls_us,
    read_interfaces,
    read_name_server,
    read_next_hop,
    read_refused,
    read_table,
    uplinks,
)
from zks_lwip.host.plan.macos.state import RouteEntry, Uplink

NETSTAT = """\
Routing tables

Internet:
Destination        Gateway            Flags               Netif Expire
default            192.168.1.1        UGScg                 en0
default            link#22            UCSIg               utun3
0/1                link#20            UScg                utun5
128.0/1            utun5              USc                 utun5
10/8               192.168.1.9        UGSc                  en0
127                127.0.0.1          UCS                   lo0
127.0.0.1          127.0.0.1          UH                    lo0
169.254            link#11            UCS                   en0      !
192.168.1          link#11            UCS                   en0      !
192.168.1.1/32     link#11            UCS                   en0      !
192.168.1.1        a4:b1:c1:0:0:1     UHLWIir               en0   1183
203.0.113.9        192.168.1.1        UGHScI                en0
198.51.100.4/32    192.168.1.1        UGSc                  en0
198.51.100.5       a4:83:e7:0:0:1     UHS                   en0
224.0.0/4          link#11            UmCS                  en0      !

Internet6:
Destination                             Gateway                                 Flags               Netif Expire
default                                 fe80::1%en0                             UGcg                  en0
default                                 fe80::%utun0                            UGcIg               utun0
::/1                                    ::1                                     UGRSc                 lo0
::1                                     ::1                                     UHL                   lo0
2001:db8:1::/64                         link#11                                 UC                    en0
fe80::%en0/64                           link#11                                 UCI                   en0
"""  # noqa: E501

OLD_NETSTAT = """\
Internet:
Destination        Gateway            Flags        Refs      Use   Netif Expire
default            10.0.0.1           UGSc          123        0     en1
10                 link#4             UCS             2        0     en1
"""

IFCONFIG = """\
lo0: flags=8049<UP,LOOPBACK,RUNNING,MULTICAST> mtu 16384
\toptions=1203<RXCSUM,TXCSUM,TXSTATUS,SW_TIMESTAMP>
\tinet 127.0.0.1 netmask 0xff000000
\tinet6 ::1 prefixlen 128
\tinet6 fe80::1%lo0 prefixlen 64 scopeid 0x1
\tnd6 options=201<PERFORMNUD,DAD>
gif0: flags=8010<POINTOPOINT,MULTICAST> mtu 1280
en0: flags=8863<UP,BROADCAST,SMART,RUNNING,SIMPLEX,MULTICAST> mtu 1500
\tether a4:83:e7:00:00:01
\tinet6 fe80::1c2f:aa%en0 prefixlen 64 secured scopeid 0xb
\tinet 192.168.1.23 netmask 0xffffff00 broadcast 192.168.1.255
\tstatus: active
utun5: flags=8051<UP,POINTOPOINT,RUNNING,MULTICAST> mtu 1500
\tinet 198.18.0.1 --> 198.18.0.2 netmask 0xfffffffc
\tinet6 fdb5:7a6b:7301::1 prefixlen 126
gone7: flags=8051<UP> mtu 1500
"""

SCUTIL = """\
DNS configuration

resolver #1
  nameserver[0] : 2001:db8::53
  nameserver[1] : 192.168.1.1
  if_index : 11 (en0)
  flags    : Request A records, Request AAAA records
  reach    : 0x00020002 (Reachable,Directly Reachable Address)

resolver #2
  domain   : local
  options  : mdns
"""


def test_the_table_of_routes() -> None:
    assert read_table(NETSTAT) == [
        RouteEntry("0.0.0.0/0", "192.168.1.1", "en0"),
        RouteEntry("0.0.0.0/0", "", "utun3", scoped=True),
        RouteEntry("0.0.0.0/1", "", "utun5"),
        RouteEntry("128.0.0.0/1", "", "utun5"),
        RouteEntry("10.0.0.0/8", "192.168.1.9", "en0"),
        RouteEntry("127.0.0.0/8", "127.0.0.1", "lo0"),
        RouteEntry("127.0.0.1/32", "127.0.0.1", "lo0"),
        RouteEntry("169.254.0.0/16", "", "en0"),
        RouteEntry("192.168.1.0/24", "", "en0"),
        RouteEntry("192.168.1.1/32", "", "en0"),
        RouteEntry("203.0.113.9/32", "192.168.1.1", "en0", scoped=True),
        RouteEntry("198.51.100.4/32", "192.168.1.1", "en0"),
        RouteEntry("198.51.100.5/32", "", "en0"),
        RouteEntry("224.0.0.0/4", "", "en0"),
        RouteEntry("::/0", "fe80::1%en0", "en0"),
        RouteEntry("::/0", "fe80::%utun0", "utun0", scoped=True),
        RouteEntry("::/1", "::1", "lo0", rejects=True),
        RouteEntry("::1/128", "::1", "lo0"),
        RouteEntry("2001:db8:1::/64", "", "en0"),
        RouteEntry("fe80::/64", "", "en0", scoped=True),
    ]


def test_older_systems_have_more_columns() -> None:
    assert read_table(OLD_NETSTAT) == [
        RouteEntry("0.0.0.0/0", "10.0.0.1", "en1"),
        RouteEntry("10.0.0.0/8", "", "en1"),
    ]


@pytest.mark.parametrize("text", ["", "Internet:\n", NETSTAT[:150], "Destination Gateway\nx y z\n"])
def test_a_table_without_routes(text: str) -> None:
    assert read_table(text) == []


NONSENSE = "\tinet 999.1.1.1 netmask 0xffffff00\n\tinet6 x prefixlen 7\n\tinet6 ::1 prefixlen 200\n"


def test_what_is_cut_or_makes_no_sense_is_left_out() -> None:
    whole = read_table(NETSTAT)
    for end in range(0, len(NETSTAT), 7):
        found = read_table(NETSTAT[:end])  # its last line may have lost its end
        assert found[:-1] == whole[: max(0, len(found) - 1)]
    for end in range(0, len(IFCONFIG), 7):
        read_interfaces(IFCONFIG[:end], {"lo0": 1, "en0": 2})
    assert read_interfaces("en0: flags=1<UP>\n" + NONSENSE, {"en0": 2})[1] == ()
    nonsense = "1.2.3.4.5 x U en0\nx y U en0\n300/8 x U en0\n10/99 x U en0\n"
    columns = "Destination Gateway Flags Netif Expire\n"
    assert read_table(f"Internet:\n{columns}{nonsense}") == []


def test_the_uplinks_are_default_routes_without_a_scope() -> None:
    table = read_table(NETSTAT)
    indexes = {"en0": 11, "utun0": 15, "utun3": 22}
    assert uplinks(table, indexes) == (
        Uplink("en0", 11, "192.168.1.1"),
        Uplink("en0", 11, "fe80::1%en0"),
    )
    assert uplinks(table, {"utun0": 15}) == (None, None)


def test_interfaces_and_their_addresses() -> None:
    indexes = {"lo0": 1, "gif0": 2, "en0": 11, "utun5": 20}
    links, addresses = read_interfaces(IFCONFIG, indexes)
    assert [(link.index, link.name, link.up) for link in links] == [
        (1, "lo0", True),
        (2, "gif0", False),
        (11, "en0", True),
        (20, "utun5", True),
    ]
    assert [(each.link, str(each.interface)) for each in addresses] == [
        ("lo0", "127.0.0.1/8"),
        ("lo0", "::1/128"),
        ("lo0", "fe80::1/64"),
        ("en0", "fe80::1c2f:aa/64"),
        ("en0", "192.168.1.23/24"),
        ("utun5", "198.18.0.1/30"),
        ("utun5", "fdb5:7a6b:7301::1/126"),
    ]


def test_the_name_server() -> None:
    assert read_name_server(SCUTIL) == ("192.168.1.1", False)
    assert read_name_server("  nameserver[0] : 127.0.0.1\n") == ("", True)
    assert read_name_server("DNS configuration\n") == ("", False)


@pytest.mark.parametrize(
    ("rules", "calls"),
    [
        ('scrub-anchor "com.apple/*" all\nanchor "com.apple/*" all\n', True),
        ('anchor "com.apple/*" all\npass quick on en0 all\n', True),
        ("pass out quick on en0 all flags S/SA\n" + 'anchor "com.apple/*" all\n', False),
        ('pass out all\nblock drop quick all\nanchor "com.apple/*" all\n', True),
        ('anchor "com.apple/*" on en1 all\n', False),
        ("", False),
    ],
)
def test_whether_pf_comes_to_our_anchor(rules: str, calls: bool) -> None:
    assert pf_calls_us(rules) is calls


def test_what_pf_has_refused() -> None:
    text = (
        "pass quick on lo0 all no state\n"
        "  [ Evaluations: 90        Packets: 70        Bytes: 720         States: 0     ]\n"
        "block return out quick proto tcp from any to <zks_peers> user != 0\n"
        "  [ Evaluations: 8734      Packets: 12        Bytes: 720         States: 0     ]\n"
        "block return out quick from any to ! <zks_direct>\n"
        "  [ Evaluations: 87        Packets: 5         Bytes: 720         States: 0     ]\n"
    )
    assert read_refused(text) == 17 and read_refused("") == 0


def test_a_next_hop() -> None:
    text = (
        "   route to: 203.0.113.9\ndestination: default\n       mask: default\n"
        "    gateway: 192.168.1.1\n  interface: en0\n      flags: <UP,GATEWAY,DONE>\n"
    )
    assert read_next_hop(text) == ("192.168.1.1", "en0")
    assert read_next_hop("  interface: en0\n") == ("", "en0")
    assert read_next_hop("route: writing to routing socket: not in table\n") == ("", "")
