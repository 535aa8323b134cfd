"""A certificate's end is read, and told in time."""

from __future__ import annotations

import base64
import logging
import ssl
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
import trustme
from trio.testing import MockClock

from zks_lwip.errors import ConfigError
from zks_lwip.worker.certificate import CertificateWatch, read_validity
from zks_lwip.worker.listen import load_certificate, tls_context

DAY = 86400.0
END = datetime(2040, 1, 1, tzinfo=UTC)


def issue(path: Path, begin: datetime, end: datetime) -> Path:
    """A certificate chain with its key in front, as some tools write it."""
    issued = trustme.CA().issue_cert("worker.example", not_before=begin, not_after=end)
    chain = b"".join(pem.bytes() for pem in issued.cert_chain_pems)
    path.write_bytes(issued.private_key_pem.bytes() + chain)
    return path


@pytest.mark.parametrize("end", [END, datetime(2049, 12, 31, tzinfo=UTC)])
def test_it_is_read(tmp_path: Path, end: datetime) -> None:
    begin = end - timedelta(days=90)
    found = read_validity(issue(tmp_path / "c", begin, end))
    assert found == (begin.timestamp(), end.timestamp())


def test_a_time_of_the_next_half_of_the_century(tmp_path: Path) -> None:
    end = datetime(2060, 7, 1, 12, 30, 15, tzinfo=UTC)  # GeneralizedTime
    assert read_validity(issue(tmp_path / "c", END, end))[1] == end.timestamp()


@pytest.mark.parametrize("label", ["X509 CERTIFICATE", "TRUSTED CERTIFICATE"])
def test_other_labels_by_which_openssl_loads_one(tmp_path: Path, label: str) -> None:
    issued = trustme.CA().issue_cert("worker.example", not_after=END)
    der = ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())
    if label.startswith("TRUSTED"):  # for what it is trusted: nothing said
        der += b"\x30\x00"
    lines = base64.encodebytes(der).decode()
    text = f"-----BEGIN {label}-----\r\n{lines}-----END {label}-----\n"
    (tmp_path / "c").write_text(text)
    issued.private_key_pem.write_to_path(tmp_path / "k")
    tls_context(tmp_path / "c", tmp_path / "k")  # OpenSSL takes it
    assert read_validity(tmp_path / "c")[1] == END.timestamp()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-----BEGIN CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----\nMIL/////\n-----END CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
    ],
)
def test_what_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "c").write_text(text)
    with pytest.raises(ConfigError, match="begins with no certificate"):
        read_validity(tmp_path / "c")


@pytest.fixture
def clock() -> MockClock:
    """Time passes when nothing else happens."""
    return MockClock(autojump_threshold=0.01)


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.WARNING, logger="zks_lwip"):
        yield caplog


async def test_it_warns_once_a_day_and_at_once_at_the_end(
    tmp_path: Path, clock: MockClock, told: pytest.LogCaptureFixture
) -> None:
    start = END.timestamp() - 16.5 * DAY

    def now() -> float:
        return start + trio.current_time()

    path = issue(tmp_path / "c", END - timedelta(days=90), END)
    async with trio.open_nursery() as nursery:
        began = trio.current_time()
        start -= began
        watch = CertificateWatch(path, now)
        nursery.start_soon(watch.run)
        await trio.sleep(2 * DAY)
        assert not told.records
        await trio.sleep(12 * DAY)
        assert 11 <= len(told.records) <= 13
        assert "days, at 2040-01-01 00:00 UTC" in told.records[0].getMessage()
        await trio.sleep(2.5 * DAY - 60)
        assert "hours" in told.records[-1].getMessage()
        assert {record.levelname for record in told.records} == {"WARNING"}
        await trio.sleep(61)
        assert told.records[-1].levelname == "ERROR"
        assert "has expired" in told.records[-1].getMessage()
        told.clear()
        issue(path, END, END + timedelta(days=90))
        watch.reload()
        await trio.sleep(3 * DAY)
        assert not told.records
        nursery.cancel_scope.cancel()


async def test_one_of_a_week_is_told_in_its_last_third(
    tmp_path: Path, clock: MockClock, told: pytest.LogCaptureFixture
) -> None:
    start = END.timestamp() - 4 * DAY - trio.current_time()
    path = issue(tmp_path / "c", END - timedelta(days=6), END)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(CertificateWatch(path, lambda: start + trio.current_time()).run)
        await trio.sleep(1 * DAY)
        assert not told.records
        await trio.sleep(2 * DAY)
        assert told.records
        nursery.cancel_scope.cancel()


def test_one_that_is_renewed_by_half_leaves_the_old_one_in_use(tmp_path: Path) -> None:
    authority = trustme.CA()
    old, new = authority.issue_cert("worker.example"), authority.issue_cert("worker.example")
    cert, key = tmp_path / "cert", tmp_path / "key"
    old.private_key_pem.write_to_path(key)
    old.cert_chain_pems[0].write_to_path(cert)
    context = tls_context(cert, key)
    new.cert_chain_pems[0].write_to_path(cert)
    with pytest.raises(ConfigError, match="the private key is not this certificate's"):
        load_certificate(context, cert, key)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(down, up, server_hostname="worker.example")
    server = context.wrap_bio(up, down, server_side=True)
    for each in (client, server, client, server):
        with suppress(ssl.SSLWantReadError):
            each.do_handshake()
    assert client.getpeercert(binary_form=True) == ssl.PEM_cert_to_DER_cert(
        old.cert_chain_pems[0].bytes().decode()
    )
