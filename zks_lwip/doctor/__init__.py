"""``doctor``: look at what a tunnel needs, from the kernel to the worker, and name the remedy.

Nothing of the machine is changed: what has to be tried is tried in a network namespace that goes
with the thread that has made it.
"""

from __future__ import annotations

from .examine import examine
from .finding import Finding, Level

__all__ = ["Finding", "Level", "examine"]
