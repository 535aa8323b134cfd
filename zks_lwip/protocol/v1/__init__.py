"""Sessions with, and as, the original Worker (PROTOCOL.md §9), without input or output."""

from __future__ import annotations

from .base import MAX_MESSAGE
from .client import ClientV1
from .held import MAX_HELD, MIN_HELD
from .stream import LINGER
from .worker import WorkerV1

__all__ = ["LINGER", "MAX_HELD", "MAX_MESSAGE", "MIN_HELD", "ClientV1", "WorkerV1"]
