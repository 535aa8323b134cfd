"""The heads of HTTP that the proxy reads and writes."""

from __future__ import annotations

import base64

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zks_lwip.proxy.http import (
    BadRequest,
    HttpTarget,
    credentials_in,
    encode_answer,
    end_to_end,
    forwarded_head,
    read_target,
)


def parsed(head: str) -> h11.Request:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(head.replace("\n", "\r\n").encode())
    event = connection.next_event()
    assert isinstance(event, h11.Request)
    return event


def asked(method: str, target: str, *headers: str) -> h11.Request:
    lines = [f"{method} {target} HTTP/1.1", "Host: other.example", *headers]
    return parsed("\n".join(lines) + "\n\n")


@pytest.mark.parametrize(
    ("target", "host", "port"),
    [
        ("example.com:443", "example.com", 443),
        ("192.0.2.1:1", "192.0.2.1", 1),
        ("[2001:db8::1]:65535", "2001:db8::1", 65535),
        ("under_score.example:80", "under_score.example", 80),
    ],
)
def test_connect(target: str, host: str, port: int) -> None:
    assert read_target(asked("CONNECT", target)) == HttpTarget(host, port)


@pytest.mark.parametrize(
    "target",
    [
        "example.com",
        "example.com:",
        "example.com:0",
        "example.com:65536",
        "example.com:+80",
        "example.com:0x50",
        ":443",
        "[::1:443",
        "me@example.com:443",
        "http://example.com:443",
        "/",
        "a" * 256 + ":443",
    ],
)
def test_what_is_no_authority_is_refused(target: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read_target(asked("CONNECT", target))
    assert caught.value.status == 400 and len(str(caught.value)) < 300


@pytest.mark.parametrize("header", ["Content-Length: 3", "Transfer-Encoding: chunked"])
def test_connect_has_no_content(header: str) -> None:
    with pytest.raises(BadRequest, match="no content"):
        read_target(asked("CONNECT", "example.com:443", header))


@pytest.mark.parametrize("header", ["Content-Length: 0", "Content-Length: 00, 00"])
def test_connect_may_say_that_it_has_no_content(header: str) -> None:
    target = read_target(asked("CONNECT", "example.com:443", header))
    assert target == HttpTarget("example.com", 443)


@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [
        ("GET", "http://a.example/x?y=1", HttpTarget("a.example", 80, b"/x?y=1", b"a.example")),
        ("GET", "HTTP://a.example", HttpTarget("a.example", 80, b"/", b"a.example")),
        ("GET", "http://a.example?q", HttpTarget("a.example", 80, b"/?q", b"a.example")),
        ("OPTIONS", "http://a.example", HttpTarget("a.example", 80, b"*", b"a.example")),
        ("GET", "http://[::1]:8080/", HttpTarget("::1", 8080, b"/", b"[::1]:8080")),
    ],
)
def test_absolute_form(method: str, target: str, expected: HttpTarget) -> None:
    assert read_target(asked(method, target)) == expected


@pytest.mark.parametrize(
    ("target", "status", "said"),
    [
        ("/", 400, "not a server"),
        ("*", 400, "not a server"),
        ("https://example.com/", 501, "does not speak https"),
        ("ftp://example.com/", 501, "does not speak ftp"),
        ("http://me:pw@example.com/", 400, "no host and port"),
        ("http:///x", 400, "no host and port"),
        ("http://example.com:99999/", 400, "no host and port"),
    ],
)
def test_other_targets_are_refused_with_a_sentence(target: str, status: int, said: str) -> None:
    with pytest.raises(BadRequest, match=said) as caught:
        read_target(asked("GET", target))
    assert caught.value.status == status


def test_what_is_for_one_connection_is_not_sent_on() -> None:
    request = asked(
        "GET",
        "http://a.example/",
        "Connection: keep-alive, X-Mine",
        "Proxy-Connection: keep-alive",
        "Proxy-Authorization: Basic eDp5",
        "Keep-Alive: timeout=5",
        "TE: trailers",
        "Upgrade: websocket",
        "X-Mine: 1",
        "X-Kept: Yes",
        "Cookie: a=b",
    )
    head = forwarded_head(request, read_target(request))
    assert (head.method, head.target) == (b"GET", b"/")
    assert list(head.headers.raw_items()) == [
        (b"Host", b"a.example"),
        (b"X-Kept", b"Yes"),
        (b"Cookie", b"a=b"),
        (b"Connection", b"close"),
    ]


def test_a_connection_header_takes_no_framing_away() -> None:
    request = asked("POST", "http://a.example/", "Connection: content-length", "Content-Length: 3")
    assert (b"Content-Length", b"3") in end_to_end(request)


def test_two_framings_become_one() -> None:
    request = asked("POST", "http://a.example/", "Content-Length: 3", "Transfer-Encoding: chunked")
    head = forwarded_head(request, read_target(request))
    names = [name for name, _ in head.headers]
    assert b"transfer-encoding" in names and b"content-length" not in names


@given(name=st.text(), password=st.text())
def test_credentials(name: str, password: str) -> None:
    text = base64.b64encode(f"{name.replace(':', '')}:{password}".encode())
    expected = (name.replace(":", "").encode(), password.encode())
    assert credentials_in([(b"proxy-authorization", b"Basic " + text)]) == expected
    assert credentials_in([(b"proxy-authorization", b"basic  " + text)]) == expected


@pytest.mark.parametrize("value", [b"", b"Basic", b"Basic !", b"Basic eA==", b"Bearer eDp5"])
def test_what_are_no_credentials(value: bytes) -> None:
    assert credentials_in([(b"proxy-authorization", value)]) is None
    assert credentials_in([(b"authorization", b"Basic eDp5")]) is None


def test_an_answer_is_whole() -> None:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(encode_answer(403, "Not there.", [(b"X-A", b"b")]))
    response, body, end = (client.next_event() for _ in range(3))
    assert isinstance(response, h11.Response) and response.status_code == 403
    assert (b"x-a", b"b") in list(response.headers)
    assert isinstance(body, h11.Data) and bytes(body.data) == b"Not there.\n"
    assert isinstance(end, h11.EndOfMessage)
    assert client.their_state is h11.MUST_CLOSE
    assert encode_answer(403, "x", with_body=False).endswith(b"\r\n\r\n")
