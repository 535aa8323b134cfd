"""The summary of a run that ``--stats`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .show import byte_count

__all__ = ["format_summary"]


def format_summary(stats: Mapping[str, Any]) -> list[str]:
    """Return the lines that ``--stats`` prints at the end.

    :param stats: of :meth:`zks_lwip.vpn.open.Vpn.stats`, or of
        :meth:`zks_lwip.vpn.RunningProxy.stats`.
    """
    lines = _of_proxy(stats["proxy"]) if "proxy" in stats else _of_gateway(stats["gateway"])
    if "published" in stats:
        lines.append(_of_published(stats["published"]))
    for name in ("stack", "tunnel"):
        numbers = _flat(stats.get(name, {}))
        if numbers:
            lines.append(f"{name}: " + ", ".join(f"{key} {value}" for key, value in numbers))
    return lines


def _of_gateway(gateway: Mapping[str, Any]) -> list[str]:
    refused = sum(gateway["refused"].values())
    return [
        f"TCP: {gateway['flows_opened']} connections ended in lwIP "
        f"({gateway['flows_accepted']} accepted, {refused} refused by the worker, "
        f"{gateway['flows_reset']} reset), "
        f"{byte_count(gateway['bytes_up'])} up, {byte_count(gateway['bytes_down'])} down",
        f"UDP: {gateway['datagrams_up']} datagrams up, {gateway['datagrams_down']} down, "
        f"{gateway['datagrams_refused']} refused, {gateway['datagrams_dropped']} dropped, "
        f"in {gateway['associations_opened']} associations",
        f"DNS: {gateway['dns_queries']} queries; ICMP: {gateway['echoes']} echo requests",
    ]


def _of_proxy(proxy: Mapping[str, Any]) -> list[str]:
    dropped = ("fragmented", "malformed", "foreign", "dropped")
    return [
        f"clients: {proxy['clients']}, of them {proxy['clients_malformed']} malformed, "
        f"{proxy['clients_late'] + proxy['clients_evicted']} too slow, "
        f"{proxy['auth_failures']} with a wrong password",
        f"TCP: {proxy['connects']} connections asked for ({proxy['connected']} connected, "
        f"{sum(proxy['refused'].values())} refused, {proxy['resets']} reset), "
        f"{proxy['forwarded']} requests for http:// URLs, "
        f"{byte_count(proxy['bytes_up'])} up, {byte_count(proxy['bytes_down'])} down",
        f"UDP: {proxy['datagrams_up']} datagrams up, {proxy['datagrams_down']} down, "
        f"{sum(proxy[f'datagrams_{why}'] for why in dropped)} dropped, "
        f"in {proxy['associations_opened']} associations",
    ]


def _of_published(published: Mapping[str, Any]) -> str:
    tcp, udp = published["tcp"], published["udp"]
    return (
        f"published ports: {tcp['connected']} connections ({tcp['refused']} refused by the "
        f"command, {tcp['too_many']} too many), "
        f"{byte_count(tcp['bytes_in'])} in, {byte_count(tcp['bytes_out'])} out; "
        f"{udp['datagrams_in']} datagrams in, {udp['datagrams_out']} out, "
        f"{udp['dropped']} dropped, of {udp['associations']} clients"
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """Return the numbers in a nested mapping that are not zero, with dotted names."""
    result: list[tuple[str, float]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            result.extend(_flat(value, f"{prefix}{key}."))
        elif isinstance(value, (int, float)) and value:
            shown = int(value) if float(value).is_integer() else round(value, 3)
            result.append((f"{prefix}{key}", shown))
    return result
