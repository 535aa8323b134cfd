"""What a worker has done and holds: of each token, and as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from ..net.histogram import Histogram
from ..protocol import SessionStats
from .limits import Account

__all__ = ["TokenStats", "WorkerStats", "account_stats", "merge_tokens"]


@dataclass(slots=True)
class TokenStats:
    """Of the tokens of one name. ``up`` is from the client; counters grow while the worker runs."""

    name: str
    sessions: int = 0
    """Held now, those without a WebSocket too; of v1, WebSockets."""
    detached: int = 0
    """Of these, those whose client is away."""
    streams: int = 0
    """TCP connections now."""
    streams_opened: int = 0
    bytes_up: int = 0
    """Payload of TCP."""
    bytes_down: int = 0
    datagrams_up: int = 0
    datagrams_down: int = 0
    datagrams_dropped: int = 0
    dns_refused: int = 0
    """DNS queries that were too many at once."""
    kept: int = 0
    """Bytes kept now for clients that may come back."""

    def counters(self) -> TokenStats:
        """Return what never falls alone: 0 for all that is only now."""
        return replace(self, sessions=0, detached=0, streams=0, kept=0)

    def add(self, other: TokenStats) -> None:
        """Add the numbers of another one."""
        for each in fields(self):
            if each.name != "name":
                setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


@dataclass(slots=True)
class WorkerStats:
    """A snapshot; :meth:`zks_lwip.worker.Worker.stats` makes one."""

    tokens: list[TokenStats] = field(default_factory=list)
    """By name, each name once."""
    handshakes: int = 0
    """Connections now that have not shown a token yet."""
    sessions_opened: int = 0
    sessions_resumed: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    """Requests that did not become sessions, by reason."""
    access_log_lost: int = 0
    """Lines of the access log that could not be written."""
    dns: Histogram = field(default_factory=Histogram)
    """Seconds that DNS queries of clients took."""
    round_trips: Histogram = field(default_factory=Histogram)
    """Seconds, of the sessions that there are now and have measured one."""
    certificate_expires: float | None = None
    """Seconds since 1970; None: no TLS."""

    @property
    def sessions(self) -> int:
        """Held now, of all tokens."""
        return sum(token.sessions for token in self.tokens)

    @property
    def streams(self) -> int:
        """TCP connections now, of all tokens."""
        return sum(token.streams for token in self.tokens)

    @property
    def streams_opened(self) -> int:
        """TCP connections since the start, of all tokens."""
        return sum(token.streams_opened for token in self.tokens)

    @property
    def bytes_up(self) -> int:
        """Payload of TCP from clients, of all tokens."""
        return sum(token.bytes_up for token in self.tokens)

    @property
    def bytes_down(self) -> int:
        """Payload of TCP to clients, of all tokens."""
        return sum(token.bytes_down for token in self.tokens)

    def add(self, other: WorkerStats) -> None:
        """Add the numbers of another process of the same worker."""
        self.tokens = merge_tokens([*self.tokens, *other.tokens])
        self.handshakes += other.handshakes
        self.sessions_opened += other.sessions_opened
        self.sessions_resumed += other.sessions_resumed
        self.access_log_lost += other.access_log_lost
        for why, count in other.refused.items():
            self.refused[why] = self.refused.get(why, 0) + count
        self.dns.merge(other.dns)
        self.round_trips.merge(other.round_trips)
        ends = [
            each
            for each in (self.certificate_expires, other.certificate_expires)
            if each is not None
        ]
        self.certificate_expires = min(ends, default=None)

    def counters(self) -> WorkerStats:
        """Return what never falls alone, as of a process that has ended."""
        return replace(
            self,
            tokens=[token.counters() for token in self.tokens],
            handshakes=0,
            round_trips=Histogram(),
            certificate_expires=None,
        )

    def to_json(self) -> dict[str, Any]:
        """Return a plain copy, for JSON."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return values | {
            "tokens": [asdict(token) for token in self.tokens],
            "dns": self.dns.to_json(),
            "round_trips": self.round_trips.to_json(),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> WorkerStats:
        """Return the snapshot of which :meth:`to_json` has told."""
        return cls(
            **{
                **values,
                "tokens": [TokenStats(**token) for token in values["tokens"]],
                "dns": Histogram.from_json(values["dns"]),
                "round_trips": Histogram.from_json(values["round_trips"]),
            }
        )


def account_stats(account: Account, live: SessionStats) -> TokenStats:
    """Return the numbers of one token.

    :param live: what its sessions have counted that have not ended.
    """
    total = SessionStats()
    total.add(account.totals)
    total.add(live)
    return TokenStats(
        account.name,
        sessions=account.sessions,
        detached=account.detached,
        streams=account.streams,
        streams_opened=total.streams_opened,
        bytes_up=total.data_in,
        bytes_down=total.data_out,
        datagrams_up=total.datagrams_in,
        datagrams_down=total.datagrams_out,
        datagrams_dropped=total.datagrams_dropped,
        dns_refused=total.dns_refused,
        kept=account.kept.used,
    )


def merge_tokens(tokens: Iterable[TokenStats]) -> list[TokenStats]:
    """Return one entry for each name, sorted: two tokens may have the same."""
    by_name: dict[str, TokenStats] = {}
    for token in tokens:
        by_name.setdefault(token.name, TokenStats(token.name)).add(token)
    return [by_name[name] for name in sorted(by_name)]
