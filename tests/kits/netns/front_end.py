"""nginx before two workers, with the configuration of ``examples/front-end`` as it is."""

from __future__ import annotations

import contextlib
import socket

import pytest
import trustme

from tests.kits.netns.child import ROOT, Child, until
from tests.kits.netns.lab import WORKER4, Lab
from tests.kits.programs import find

NAME = "worker.example"
URL = f"wss://{NAME}"
CONFIGURATION = ROOT / "examples" / "front-end" / "nginx.conf"
WORKERS = {"a": 8081, "b": 8082}
"""Session prefixes and ports, as in the configuration."""

# What Debian's nginx.conf has around the files of conf.d, as far as it matters.
_AROUND = """
user root;
worker_processes 1;
daemon off;
pid nginx.pid;
error_log stderr warn;
events {{ worker_connections 768; }}
http {{
    access_log off;
    client_body_temp_path temp;
    proxy_temp_path temp;
    fastcgi_temp_path temp;
    uwsgi_temp_path temp;
    scgi_temp_path temp;
    include {included};
}}
"""


class FrontEnd:
    """nginx in ``mid``, and the workers behind it."""

    def __init__(self, net: Lab) -> None:
        found = find("nginx")
        if found is None:
            pytest.skip("nginx is not to be had")
        self._net = net
        self._program, self._environment = found
        self.folder = net.directory / "front-end"
        self.folder.mkdir(exist_ok=True)
        self.ca_file = self.folder / "ca.pem"
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.ca_file))
        certificate = authority.issue_cert(NAME, WORKER4)
        keys = self.folder / "zks-lwip"
        keys.mkdir(exist_ok=True)
        chain = b"".join(part.bytes() for part in certificate.cert_chain_pems)
        (keys / "fullchain.pem").write_bytes(chain)
        certificate.private_key_pem.write_to_path(str(keys / "privkey.pem"))
        (self.folder / "nginx.conf").write_text(_AROUND.format(included=CONFIGURATION))

    def start(self) -> Child:
        """Start it, ready; stop it, or use it as a context manager."""
        argv = [self._program, "-p", f"{self.folder}/", "-c", f"{self.folder}/nginx.conf"]
        child = Child("nginx", self._net.mid.command(argv), env=self._environment)
        try:
            with self._net.mid.entered():
                until(lambda: listens(WORKER4, 443), message=lambda: child.output)
        except BaseException:
            child.__exit__(None, None, None)
            raise
        return child

    def worker(self, prefix: str, *options: str) -> Child:
        """A worker behind it, ready."""
        listen = f"127.0.0.1:{WORKERS[prefix]}"
        given = ["--session-prefix", prefix, "--trusted-proxy", "127.0.0.1", "-v", *options]
        return self._net.worker(*given, listen=listen)

    @property
    def options(self) -> list[str]:
        """What a client is told."""
        return ["--worker", URL, "--worker-address", WORKER4, "--ca-file", str(self.ca_file)]


def listens(host: str, port: int) -> bool:
    """Whether a process takes connections there."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), 5):
        return True
    return False
