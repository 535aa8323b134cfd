"""The metrics of ``connect``: for this machine, and none beyond it."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path

import pytest

from tests.kits.netns import client, lab
from tests.kits.netns.child import Child
from tests.kits.netns.commands import host, unchanged
from tests.kits.netns.lab import Lab, Namespace

__all__ = ["host", "unchanged"]  # the fixtures

PORT = 9479


def ask(path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=90)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_they_are_told_here_alone(
    net: Lab, worker: Child, host: Namespace, unchanged: None
) -> None:
    with net.connect(host, "--metrics", str(PORT)) as child, host.entered():
        assert client.who(lab.FAR4) == lab.MID4
        assert ask("/ready") == (200, "ready\n")
        status, text = ask("/metrics")
        assert status == 200
        for line in (
            "zks_lwip_up 1.0",
            "zks_lwip_gateway_flows_opened_total 1.0",
            'zks_lwip_stack_dropped_packets_total{reason="checksum"} 0.0',
            "zks_lwip_dns_latency_seconds_count 0.0",
        ):
            assert line in text, text
        lines = Path("/proc/net/tcp").read_text().splitlines()
        listening = [line.split()[1] for line in lines if " 0A " in line]
        assert listening == [f"0100007F:{PORT:04X}"]
        # nor is this machine's loopback reached through the tunnel
        with pytest.raises(OSError), socket.create_connection((lab.MID4, PORT), timeout=5):
            pytest.fail("something answers there")
        child.stop()
    child.no_traceback()


def test_a_port_that_is_taken_changes_nothing(net: Lab, host: Namespace, unchanged: None) -> None:
    with host.entered(), socket.create_server(("127.0.0.1", PORT)):
        with net.connect(host, "--metrics", str(PORT), ready=False) as child:
            assert child.wait() == 2
            assert f"cannot listen on 127.0.0.1:{PORT}" in child.output
            assert "give --metrics another port" in child.output
