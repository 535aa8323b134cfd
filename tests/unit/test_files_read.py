"""A pipe or a device in the place of a file is refused: nothing waits for a writer."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from zks_lwip.config import read_token_file
from zks_lwip.dns.local import LocalNames
from zks_lwip.errors import ConfigError
from zks_lwip.host.resolv_conf import ResolvConf, read_name_servers, read_resolv_conf
from zks_lwip.net.tls import trust
from zks_lwip.proxy.passwords import PasswordFile
from zks_lwip.settings.files import read_source
from zks_lwip.vpn.command import own_names
from zks_lwip.worker.auth import TokenFile
from zks_lwip.worker.certificate import CertificateWatch
from zks_lwip.worker.listen import tls_context
from zks_lwip.worker.nameservers import HostsFile, SystemNameServers

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")

TOKEN = "alice-" + "a" * 30


def settings(path: Path) -> object:
    return read_source(path, required=True, environ={}, warn=pytest.fail)


def certificates(path: Path) -> None:
    trust(ssl.create_default_context(), path)


def certificate(path: Path) -> object:
    return tls_context(path, None)


def key(path: Path) -> object:
    whole = path.with_name("pem")
    trustme.CA().issue_cert("x").private_key_and_cert_chain_pem.write_to_path(whole)
    return tls_context(whole, path)


def block_list(path: Path) -> object:
    return LocalNames(hosts=None, block=[path])


READERS = [
    TokenFile,
    CertificateWatch,
    PasswordFile,
    block_list,
    certificate,
    certificates,
    key,
    read_token_file,
    settings,
]


@pytest.mark.parametrize("read", READERS)
def test_a_pipe_that_has_a_name_is_refused(tmp_path: Path, read: Callable[[Path], object]) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path, 0o600)
    with pytest.raises(ConfigError, match="it is a named pipe, no regular file"):
        read(path)


@pytest.mark.parametrize("read", READERS)
def test_a_device_is_refused(tmp_path: Path, read: Callable[[Path], object]) -> None:
    path = tmp_path / "terminal"
    ends = os.openpty()
    try:
        path.symlink_to(os.ttyname(ends[1]))
        with pytest.raises(ConfigError, match="it is a device, no regular file"):
            read(path)
    finally:
        for end in ends:
            os.close(end)


@pytest.mark.parametrize("read", READERS)
def test_a_directory_is_said_to_be_one(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(ConfigError, match="Is a directory"):
        read(tmp_path)


def test_a_file_that_has_become_a_pipe_holds_up_no_reload(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What was read before stays in force."""
    texts = {"tokens": TOKEN, "passwords": "alice:secret", "blocked": "ads.example", "hosts": ""}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    pem = tmp_path / "pem"
    trustme.CA().issue_cert("x").private_key_and_cert_chain_pem.write_to_path(pem)
    tokens, passwords = TokenFile(tmp_path / "tokens"), PasswordFile(tmp_path / "passwords")
    names = LocalNames(hosts=tmp_path / "hosts", block=[tmp_path / "blocked"])
    watch = CertificateWatch(pem)
    for name in (*texts, "pem"):
        (tmp_path / name).unlink()
        os.mkfifo(tmp_path / name, 0o600)
    for reload in (tokens.reload, passwords.reload, names.reload, watch.reload):
        with pytest.raises(ConfigError, match="named pipe"):
            reload()
    assert tokens.check(b"Bearer " + TOKEN.encode()) is not None
    assert passwords.names == {"alice"} and names.blocked_names == 1
    with caplog.at_level(logging.WARNING):
        names.refresh_hosts()
    assert "hosts cannot be read (it is a named pipe, no regular file)" in caplog.text


def test_a_pipe_in_the_place_of_a_file_of_the_system_says_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As one that is missing: none of these is ours to refuse."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    assert read_resolv_conf(path) == ResolvConf() and read_name_servers(path) == []
    monkeypatch.setattr(socket, "gethostname", lambda: "laptop")
    assert len(own_names(set(), hosts=path)) == 2
    assert HostsFile(path).lookup("host.example") == ()
    with caplog.at_level(logging.WARNING):
        assert SystemNameServers((path,))() == ()
    assert f"no usable name server in {path}" in caplog.text


@pytest.mark.parametrize("place", ["/dev/fd/{}", "/proc/self/fd/{}"])
def test_a_pipe_that_this_process_was_given_is_read(place: str) -> None:
    """Also where its writer has still to write, as in a shell's ``<(...)``."""
    if not os.path.exists(os.path.dirname(place)):
        pytest.skip("this system has it elsewhere")
    for read in (TokenFile, read_token_file, PasswordFile, block_list, settings):
        reading, writing = os.pipe()
        text = b'"alice:secret" = "x"' if read is settings else b"alice:secret-of-hers"

        def write(end: int = writing, text: bytes = text) -> None:
            os.write(end, text)
            os.close(end)

        writer = threading.Timer(0.05, write)
        writer.start()
        try:
            read(Path(place.format(reading)))
        finally:
            writer.join()
            os.close(reading)


def test_the_null_device_is_an_empty_file_of_settings() -> None:
    source = read_source(Path(os.devnull), required=True, environ={}, warn=pytest.fail)
    assert source is not None and not source.table
