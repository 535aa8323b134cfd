"""The encrypted transports of DNS, by the scheme of a resolver's URL: the table to add one to."""

from __future__ import annotations

from .doh import DohResolver
from .dot import DotResolver
from .encrypted import EncryptedResolver

__all__ = ["TRANSPORTS"]

TRANSPORTS: dict[str, type[EncryptedResolver]] = {
    "https": DohResolver,
    "tls": DotResolver,
}
