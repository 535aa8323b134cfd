"""Numbers for Prometheus: ``/metrics`` and ``/ready``, over HTTP, of a client or of a worker.

- ``server`` answers; it runs in trio, without a thread, and is bounded whatever its clients do.
- ``client`` says what a VPN or a proxy counts, ``worker`` what a worker does; ``families`` makes
  metrics of counters by their names.
"""

from __future__ import annotations

from .metered import Metered
from .server import MetricsServer, MetricsSource, listen_for_metrics, parse_metrics

__all__ = ["Metered", "MetricsServer", "MetricsSource", "listen_for_metrics", "parse_metrics"]
