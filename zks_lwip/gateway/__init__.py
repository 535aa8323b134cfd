"""Flows met with services: the TCP bridge, UDP associations, port 53 and ICMP echo."""

from __future__ import annotations

from ._gateway import Gateway
from .dns import DnsService
from .policy import Policy, Service

__all__ = ["DnsService", "Gateway", "Policy", "Service"]
