"""One worker in several processes, since one interpreter uses one core.

- ``supervisor`` listens, starts the processes, starts those again that die, and adds their numbers
  up; ``child`` is one of them.
- All accept from the same sockets, so the one that is least busy serves a new connection. A session
  stays where it began: its id names the process (PROTOCOL.md §3), and a request for it that another
  one has accepted is handed over (``worker/handover.py``) before a WebSocket comes of it.
"""

from __future__ import annotations

from .child import open_child, serve_child
from .supervisor import Supervisor

__all__ = ["Supervisor", "open_child", "serve_child"]
