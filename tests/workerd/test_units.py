"""The Cloudflare Worker's codec, policy and bookkeeping, called under workerd (``units.js``)."""

from __future__ import annotations

import dataclasses
import http.client
import json
import random
from collections.abc import Iterator
from ipaddress import IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import pytest

from tests.kits.workerd import BOB, TOKEN, running_workerd
from tests.unit.protocol.test_frames import GOLDEN
from tests.unit.worker.test_policy import PUBLIC, REFUSED
from zks_lwip.protocol import Connect, Data, Error, Frame, Hello, Unknown, Window, parse
from zks_lwip.worker.policy import InvalidHost, Policy, parse_address

UNITS = (Path(__file__).parent / "units.js").read_text()
OVERHEAD = 1024  # bytes that a message costs beside what is in it
CLOUDFLARE = "Cloudflare's own network, which Workers cannot connect to"


class Refused(Exception):
    """What a function has thrown."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(answer["error"])
        self.status = answer["status"]
        self.kind = answer["kind"]


class Units:
    """Calls functions of units.js."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._connection = http.client.HTTPConnection(*address, timeout=60)

    def __call__(self, name: str, *arguments: object) -> Any:
        self._connection.request("POST", "/", json.dumps([name, *arguments]))
        answer = json.loads(self._connection.getresponse().read())
        if "error" in answer:
            raise Refused(answer)
        return answer.get("value")

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Units]:
    folder = tmp_path_factory.mktemp("units")
    with running_workerd(folder, modules={"units.js": UNITS}, main="units.js") as running:
        calls = Units(running.address)
        yield calls
        calls.close()


# --- frames -----------------------------------------------------------------------------------

FIELDS = {
    "stream": "id", "association": "id", "request": "id", "id": "id",
    "message": "text", "reason": "text", "body": "payload",
}  # fmt: skip


def shown(frame: Frame) -> dict[str, object]:
    """A frame as units.js shows it."""
    result: dict[str, object] = {"id": 0, "command": frame.command, "counted": frame.counted}
    if isinstance(frame, Hello):
        return result | {"payload": frame.encode()[9:].hex()}
    for field in dataclasses.fields(frame):
        value = getattr(frame, field.name)
        if isinstance(value, bytes | memoryview):
            result["payload"] = bytes(value).hex()
        else:
            result[FIELDS.get(field.name, field.name)] = value
    return result


@pytest.mark.parametrize(("frame", "text"), GOLDEN, ids=lambda value: str(value)[:30])
def test_golden(units: Units, frame: Frame, text: str) -> None:
    golden = text.replace(" ", "")
    assert units("read", golden) == [shown(frame)]
    assert units("rewrite", golden) == golden
    if frame.command < 0x40:
        assert units("readV1", golden) == shown(frame)
        with pytest.raises(Refused, match="1 bytes follow"):
            units("readV1", golden + "00")
    for size in range(0, len(golden), 2):
        with pytest.raises(Refused) as caught:
            units("read", golden[:size])
        assert (caught.value.kind, caught.value.status) == ("ProtocolError", 1002)


def test_frames_share_a_message_and_are_counted(units: Units) -> None:
    golden = [text.replace(" ", "") for _, text in GOLDEN]
    assert units("read", "".join(golden)) == [shown(frame) for frame, _ in GOLDEN]
    assert units("rewrite", "".join(golden)) == "".join(golden)
    for count in (0, 1, 7, len(golden)):
        assert units("skip", "".join(golden), count) == len("".join(golden[:count])) // 2


@pytest.mark.parametrize("command", [0x00, 0x0B, 0x20, 0x3F, 0x80, 0xC0, 0xFF])
def test_unknown_commands(units: Units, command: int) -> None:
    with pytest.raises(Refused, match=f"command 0x{command:02x} is unknown"):
        units("read", bytes([command, 0, 0, 0, 1, 0, 0, 0, 0]).hex())


MALFORMED = [
    ("01 00000001 0050 0000", "its host has 0 bytes"),
    ("01 00000001 0050 0100" + "61" * 256, "its host has 256 bytes"),
    ("01 00000001 0050 0003 610061", "its host has a NUL"),
    ("01 00000001 0050 0002 c328", "its host is not UTF-8"),
    ("04 00000001 0050 0002 c328", "its text is not UTF-8"),
    ("40 00000001 00000002 7b7d", "HELLO: its id is 1, not 0"),
    ("40 00000000 00002001" + "20" * 8193, "HELLO: 8193 bytes of JSON"),
    ("41 00000001 00000001 00", "EOF: its length is 1, not 0"),
    ("42 00000001 00000003 000000", "WINDOW: its length is 3, not 4"),
    ("43 00000001 00000008 0000000000000000", "ACK: its id is 1"),
    ("43 00000000 00000004 00000000", "ACK: its length is 4"),
    ("45 00000001 00000001 00", "ECHO: its body of 1 bytes is cut short"),
    ("45 00000001 00000003 0002 61", "ECHO: its body of 3 bytes is cut short"),
    ("47 00000001 00000002 0000", "GOAWAY: its id is 1"),
    ("48 00000001 00000007 0000 0000 0002 61", "UDP_ERROR: its length is 7, not 8"),
    ("08 00000001 00010000" + "00" * 65536, "DNS_QUERY: 65536 bytes"),
    ("07 00000001 0050 0001 61 0000ffe4" + "00" * 65508, "UDP: 65508 bytes"),
]


@pytest.mark.parametrize(("text", "problem"), MALFORMED, ids=lambda value: value[:24])
def test_malformed(units: Units, text: str, problem: str) -> None:
    with pytest.raises(Refused, match=problem) as caught:
        units("read", text.replace(" ", ""))
    assert caught.value.status == 1002


def test_any_bytes_are_read_as_the_python_codec_reads_them(units: Units) -> None:
    generator = random.Random(5)
    # (HELLO's JSON is read later here)
    golden = [frame.encode() for frame, _ in GOLDEN if not isinstance(frame, Hello)]
    for _ in range(400):
        message = bytearray(b"".join(generator.choices(golden, k=3)))
        for _ in range(generator.randrange(3)):
            message[generator.randrange(len(message))] = generator.randrange(256)
        try:
            wanted = len(parse(bytes(message)))
        except Exception:  # the two say it in other words
            wanted = None
        try:
            got = len(units("read", message.hex()))
        except Refused as refused:
            assert refused.kind == "ProtocolError"
            got = None
        assert got == wanted


# --- HELLO ------------------------------------------------------------------------------------


def hello(text: str) -> str:
    return text.encode().hex()


def test_hello(units: Units) -> None:
    assert units("hello", hello('{"version":2}')) == {
        "window": 65536, "max_data": 65535, "max_message": 1048576, "received": 0, "attempt": 0,
        "ack": 524288,
    }  # fmt: skip
    said = Hello(
        window=5, max_data=1 << 18, session="ab", received=9, attempt=3, resume=0, ack=1 << 20
    )
    assert units("hello", said.encode_header().hex()) == {
        "window": 5, "max_data": 262144, "max_message": 1048576, "received": 9, "resume": 0,
        "session": "ab", "attempt": 3, "ack": 1048576,
    }  # fmt: skip
    assert "x" not in units("hello", hello('{"version":2,"x":[]}'))


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "null", "{", '"a"', "{}", '{"version":1}', '{"version":"2"}',
        '{"version":2,"window":0}', '{"version":2,"window":2147483648}',
        '{"version":2,"window":true}', '{"version":2,"window":1.5}', '{"version":2,"window":"1"}',
        '{"version":2,"max_data":1023}', '{"version":2,"max_message":131071}',
        '{"version":2,"received":-1}', '{"version":2,"session":1}', '{"version":2,"resume":-1}',
        '{"version":2,"window":null}', '{"version":2,"ack":524287}', '{"version":2,"ack":"1"}',
    ],
)  # fmt: skip
def test_hellos_that_are_refused(units: Units, text: str) -> None:
    with pytest.raises(Refused, match="HELLO") as caught:
        units("hello", hello(text))
    assert caught.value.status == 1002


# --- addresses and policy ---------------------------------------------------------------------


def spellings(address: str) -> list[str]:
    """Every way in which an address may be written, or hidden in another."""
    ip = ip_address(address)
    if isinstance(ip, IPv6Address):
        return [address, ip.exploded, ip.compressed.upper()]
    value = int(ip)
    a, b, c, d = ip.packed
    return [
        address, str(value), hex(value), f"0{value:o}", f"{a}.{value & 0xFFFFFF}",
        f"{a}.{b}.{value & 0xFFFF}", f"0x{a:x}.0{b:o}.{c}.{d}",
        *(str(IPv6Address(form)) for form in (
            0xFFFF << 32 | value, 0x64FF9B << 96 | value, 0xFFFF << 48 | value,
            0x2002 << 112 | value << 80 | 1, 0x2A00 << 112 | 0x5EFE << 32 | value,
            0x2001 << 112 | value << 64 | (0x08080808 ^ 0xFFFFFFFF),
            0x2001 << 112 | 0x08080808 << 64 | (value ^ 0xFFFFFFFF),
        )),
    ]  # fmt: skip


REFUSED_SPELLINGS = [text for host, _ in REFUSED for text in spellings(host)]


def test_refused_in_every_spelling(units: Units) -> None:
    assert len(REFUSED_SPELLINGS) > 300
    refusals = units("refusals", REFUSED_SPELLINGS, [])
    assert [host for host, why in zip(REFUSED_SPELLINGS, refusals, strict=True) if not why] == []
    assert units("refusals", [host for host, _ in REFUSED], []) == [why for _, why in REFUSED]


def test_public(units: Units) -> None:
    for host, why in zip(PUBLIC, units("refusals", PUBLIC, []), strict=True):
        assert why == (CLOUDFLARE if host in ("1.1.1.1", "2606:4700:4700::1111") else None), host
    cloudflare = ["104.16.0.1", "172.64.0.1", "2606:4700::1", "64:ff9b::6810:1"]
    assert all(CLOUDFLARE in why for why in units("refusals", cloudflare, []))
    assert units("refusals", cloudflare, ["104.16.0.0/13", "172.64.0.0/13", "2606:4700::/32"]) == [
        None
    ] * len(cloudflare)


ALLOW = ["10.1.0.0/16", "fd00::/8", "127.0.0.0/8", "192.168.0.0/16", "64:ff9b:1::/48"]


@pytest.mark.parametrize("allow", [[], ALLOW], ids=["nothing", "some"])
def test_the_same_as_the_python_worker(units: Units, allow: list[str]) -> None:
    generator = random.Random(6)
    hosts = [host for host, _ in REFUSED] + PUBLIC
    networks = [
        ip_network(f"{host}/{12 if '.' in host else 40}", strict=False)
        for host in hosts
        if "::ffff" not in host
    ]
    for _ in range(600):
        network = generator.choice(networks)
        address = network[generator.randrange(network.num_addresses)]
        hosts += [str(address)] if address.version == 6 else spellings(str(address))
    policy = Policy(map(ip_network, allow))
    wanted = [policy.refusal(parse_address(host)) for host in hosts]  # type: ignore[arg-type]
    for host, want, got in zip(hosts, wanted, units("refusals", hosts, allow), strict=True):
        if got is not None and CLOUDFLARE in got:
            assert want is None, host
        else:
            assert got == want, host


def test_hosts_are_read_as_the_python_worker_reads_them(units: Units) -> None:
    generator = random.Random(7)
    parts = ["0", "1", "127", "255", "256", "0x7f", "0X1", "08", "0177", "a", "", "4294967295", "x"]
    groups = ["", "0", "1", "ffff", "abcd", "12345", "g", "127.0.0.1", "1.2.3", "01.2.3.4"]
    hosts = [
        "", "fe80::1%eth0", "[::1]", "127.0.0.1.", "example.com", "example.com.", "a b", "a\0b",
        "user@host", "a/b", "a.09", "x" * 300, "localhost", "0x", "::", "::1", "1::2::3", ":::",
        "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7::", "::2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8:9",
    ]  # fmt: skip
    for _ in range(3000):
        hosts.append(".".join(generator.choices(parts, k=generator.randrange(1, 6))))
        hosts.append(":".join(generator.choices(groups, k=generator.randrange(2, 10))))
    for host, got in zip(hosts, units("addresses", hosts), strict=True):
        try:
            address = parse_address(host)
            want: object = address if address is None else str(address)
        except InvalidHost as error:
            want = {"error": str(error)}
        if isinstance(want, str) and "." in want and ":" in want:  # Python shows some as ::1.2.3.4
            want = IPv6Address(want).exploded
            got = IPv6Address(got).exploded
        assert got == want, host


@pytest.mark.parametrize("text", ["10.0.0.1/8", "10.0.0.0/33", "example.com", "", "::/129", "10.1"])
def test_bad_networks(units: Units, text: str) -> None:
    with pytest.raises(Refused, match="network such as|host bits"):
        units("network", text)


def test_networks(units: Units) -> None:
    assert units("network", "192.0.2.1") == "192.0.2.1 1"
    assert units("network", "fd00::/8") == f"fd00:: {2**120}"


# --- settings and tokens ----------------------------------------------------------------------


def test_settings(units: Units) -> None:
    settings = units("settings", {})
    assert (settings["streams"], settings["resume"], settings["keepalive"]) == (100, 60, 30)
    assert settings["subrequests"] is None  # Infinity
    assert settings["allow"] == 0 and settings["ipv6"] is True
    settings = units("settings", {"STREAMS": "5", "ALLOW": "10.0.0.0/8, ::1", "SUBREQUESTS": "50"})
    assert (settings["streams"], settings["allow"], settings["subrequests"]) == (5, 2, 50)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STREAMS", "0"), ("STREAMS", "many"), ("STREAMS", "1.5"), ("RESUME", "61"),
        ("SUBREQUESTS", "19"), ("ALLOW", "10.0.0.1/8"), ("RESOLVER", "1.1.1.1"), ("IPV6", "yes"),
    ],
)  # fmt: skip
def test_settings_that_are_refused(units: Units, name: str, value: str) -> None:
    with pytest.raises(Refused, match=name) as caught:
        units("settings", {name: value})
    assert caught.value.kind == "SettingsError"


def test_tokens(units: Units) -> None:
    secret = f"# who\nalice {TOKEN}\n\n  bob\t{BOB} \n{'c' * 16}\n"
    for name, token in (("alice", TOKEN), ("bob", BOB), ("line-5", "c" * 16)):
        assert units("authenticate", secret, f"Bearer {token}")["name"] == name
        assert units("authenticate", secret, f"bearer   {token} ")["name"] == name
    wrong = [None, "", "Bearer", "Bearer ", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x"]
    for header in [*wrong, "Bearer alice", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN} {BOB}"]:
        assert units("authenticate", secret, header) is None
    for bad in (None, "", "# no token\n", "short", f"a b {TOKEN}", "ü" * 20):
        with pytest.raises(Refused, match="TOKEN"):
            units("authenticate", bad, f"Bearer {TOKEN}")


# --- DNS --------------------------------------------------------------------------------------


def own_answer(units: Units, query: bytes) -> dns.message.Message | None:
    answer = units("ownAnswer", query.hex())
    return None if answer is None else dns.message.from_wire(bytes.fromhex(answer))


def test_plain_questions_go_to_the_resolver(units: Units) -> None:
    for kind in ("A", "AAAA", "HTTPS", "TXT", "TYPE65280"):
        assert own_answer(units, dns.message.make_query("example.com", kind).to_wire()) is None


@pytest.mark.parametrize(
    ("kind", "klass", "opcode", "rcode"),
    [
        ("A", "IN", dns.opcode.NOTIFY, dns.rcode.NOTIMP),
        ("A", "CH", 0, dns.rcode.REFUSED),
        ("AXFR", "IN", 0, dns.rcode.REFUSED),
        ("IXFR", "IN", 0, dns.rcode.REFUSED),
        ("MAILB", "IN", 0, dns.rcode.NOTIMP),
        ("TYPE250", "IN", 0, dns.rcode.NOTIMP),
    ],
)
def test_no_plain_questions(units: Units, kind: str, klass: str, opcode: int, rcode: int) -> None:
    query = dns.message.make_query("example.com", kind, klass, use_edns=True, want_dnssec=True)
    query.set_opcode(opcode)  # type: ignore[arg-type]
    answer = own_answer(units, query.to_wire())
    assert answer is not None and answer.rcode() == rcode
    assert (answer.id, answer.question) == (query.id, query.question)
    assert answer.flags & dns.flags.QR and answer.flags & dns.flags.RD
    (option,) = answer.options
    assert isinstance(option, dns.edns.EDEOption) and option.text
    assert answer.ednsflags & dns.flags.DO


def test_any(units: Units) -> None:
    query = dns.message.make_query("example.com", "ANY")
    answer = own_answer(units, query.to_wire())
    assert (
        answer is not None
        and answer.answer[0].to_text() == 'example.com. 3600 IN HINFO "RFC8482" ""'
    )


@pytest.mark.parametrize("query", [b"", b"\1", b"\1\2" + bytes(10), b"\1\2" + bytes(300)])
def test_garbage(units: Units, query: bytes) -> None:
    answer = own_answer(units, query)
    assert answer is not None and answer.rcode() == dns.rcode.FORMERR
    assert answer.id == int.from_bytes(query[:2].ljust(2, b"\0"))


# --- bookkeeping ------------------------------------------------------------------------------


def run(*frames: Frame) -> tuple[str, int]:
    return b"".join(frame.encode() for frame in frames).hex(), len(frames)


def test_kept_messages_are_cut_where_the_client_stopped(units: Units) -> None:
    frames: list[Frame] = [
        Data(1, b"abc"), Window(1, 5), Error(2, 111, "no"), Unknown(0x60, 1, b"x"),
        Connect(3, "a", 1),
    ]  # fmt: skip
    steps = [["add", *run(*frames[:3]), 0], ["add", *run(*frames[3:]), 0]]
    for received in range(6):
        result = units("kept", 1 << 20, [*steps, ["resend", received, 1]])
        assert "".join(result["said"]) == run(*frames[received:])[0]
        kept = [len(message) // 2 + OVERHEAD for message in result["said"]]
        assert result["bytes"] == sum(kept)
        assert (result["sent"], result["acknowledged"]) == (5, received)
    result = units("kept", 1 << 20, [*steps, ["acknowledge", 4, 0, 0], ["resend", 4, 0]])
    assert result["said"] == [run(frames[4])[0]]


def test_what_an_acknowledgement_may_say(units: Units) -> None:
    steps = [["add", *run(Data(1, b"a"), Data(1, b"b")), 0], ["acknowledge", 2, 0, 0]]
    for count, may in ((1, False), (2, True), (3, False)):
        assert units("kept", 1 << 20, [*steps, ["covers", count]])["said"] is may


def test_what_is_sent_ahead_grows_with_the_client(units: Units) -> None:
    most = 1 << 22
    full = [["fill", (1 << 20) - OVERHEAD, 0], ["room"]]
    assert units("kept", most, full)["said"] == 0
    grown = units("kept", most, [*full, ["acknowledge", 1, 10, 5]])
    assert (grown["limit"], grown["bytes"]) == (1 << 21, 0)
    late = units("kept", most, [*full, ["acknowledge", 1, 400, 5]])
    assert late["limit"] == 1 << 20
    not_full = units("kept", most, [["fill", 100, 0], ["room"], ["acknowledge", 1, 10, 5]])
    assert not_full["limit"] == 1 << 20
    steps: list[object] = []
    for number in range(10):
        steps += [["fill", most, 0], ["room"], ["acknowledge", number + 1, 0, 5]]
    assert units("kept", most, steps)["limit"] == most
    slow = [*steps, ["fill", 1, 0], ["acknowledge", 11, 5000, 5]]
    assert units("kept", most, slow)["limit"] == most // 2


def test_windows_grow_and_shrink_within_their_budget(units: Units) -> None:
    size = 65536
    take = [["take", size, 1]]
    result = units("windows", size, 1 << 20, [*take, ["consume", size // 2 - 1, 2, 10]])
    assert result["granted"] == [True, 0] and result["held"] == size // 2 + 1
    assert units("windows", size, 1 << 20, [["take", size + 1, 0]])["granted"] == [False]
    fast = units("windows", size, 1 << 20, [*take, ["consume", size, 2, 10]])
    assert fast["granted"] == [True, 2 * size] and fast["used"] == size
    poor = units("windows", size, 1000, [*take, ["consume", size, 2, 10]])
    assert poor["granted"] == [True, size + 500]
    unmeasured = units("windows", size, 1 << 20, [*take, ["consume", size, 2, 0]])
    assert unmeasured["granted"] == [True, size]
    steps = [
        *take,
        ["consume", size, 2, 10],
        ["take", 2 * size, 2],
        ["consume", 2 * size, 9000, 10],
    ]
    slow = units("windows", size, 1 << 20, steps)
    assert slow["granted"][-1] == size and slow["used"] == 0
    assert units("windows", size, 1 << 20, [*steps[:2], ["release"]])["used"] == 0


def test_marks(units: Units) -> None:
    half = 128 << 10
    result = units("marks", [["sent", half], ["sent", half], ["pinged", 100], ["sent", 5]])
    assert result["said"][:2] == [False, True] and result["inFlight"] == 2 * half + 5 + 3 * OVERHEAD
    result = units("marks", [["sent", half], ["pinged", 100], ["sent", 5], ["ponged", 140]])
    assert (result["inFlight"], result["trip"]) == (5 + OVERHEAD, 40)
    assert units("marks", [["ponged", 1]])["inFlight"] == 0
    assert units("marks", [["isStale", 10_000], ["pinged", 10_000], ["isStale", 30_000]])[
        "said"
    ] == [True, None, False]
