"""The addresses of the TUN."""

from __future__ import annotations

import ipaddress

__all__ = ["TUN_IPV4", "TUN_IPV6"]

TUN_IPV4 = ipaddress.IPv4Interface("198.18.0.1/30")
"""Of the range for benchmarks (RFC 2544), which no real network uses; .2 is ours in the tunnel."""

TUN_IPV6 = ipaddress.IPv6Interface("fdb5:7a6b:7301::1/126")
"""Unique-local (RFC 4193), with a random global id."""
