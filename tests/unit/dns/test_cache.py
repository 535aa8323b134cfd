"""The cache: bounded, least recently used first, with a clock of its own."""

from __future__ import annotations

import dns.message
import dns.rrset

from zks_lwip.dns import Cache
from zks_lwip.dns.message.answer import Answer, answer_from_upstream
from zks_lwip.dns.message.query import Query, examine


def entry(name: str, ttl: int = 300, size: int = 1) -> tuple[Query, Answer]:
    query = examine(dns.message.make_query(name, "TXT").to_wire())
    assert isinstance(query, Query)
    made = dns.message.make_response(dns.message.from_wire(query.upstream(1232)))
    text = " ".join(["x" * 200] * size)
    made.answer.append(dns.rrset.from_text(made.question[0].name, ttl, "IN", "TXT", text))
    return query, answer_from_upstream(made.to_wire(max_size=65535), query)


def test_the_least_recently_used_goes_first() -> None:
    cache = Cache(8)
    entries = [entry(f"n{number}.example") for number in range(20)]
    for query, answer in entries[:8]:
        cache.put(query, answer)
    assert cache.get(entries[0][0]) is not None
    for query, answer in entries[8:12]:
        cache.put(query, answer)
    assert (len(cache), cache.evicted) == (8, 4)
    kept = [number for number, (query, _) in enumerate(entries) if cache.get(query)]
    assert kept == [0, 5, 6, 7, 8, 9, 10, 11]


def test_bounded_in_bytes_too() -> None:
    cache = Cache(100, capacity_bytes=100_000)
    for number in range(20):
        cache.put(*entry(f"n{number}.example", size=100))
    assert cache.bytes <= 100_000 and 1 <= len(cache) < 5
    # The same name again takes the place of the old one.
    before = cache.bytes
    cache.put(*entry("n19.example", size=100))
    assert cache.bytes == before
    cache.flush()
    assert (cache.bytes, len(cache)) == (0, 0)


def test_kept_for_its_ttl_and_not_longer() -> None:
    now = 1000.0
    cache = Cache(clock=lambda: now)
    query, answer = entry("www.example", ttl=10)
    cache.put(query, answer)
    now += 9.5
    assert cache.get(query) == (answer, 9.5)
    now += 0.5
    assert cache.get(query) is None and len(cache) == 0
    cache.put(*entry("zero.example", ttl=0))
    assert len(cache) == 0
    assert (cache.hits, cache.misses) == (1, 1)
