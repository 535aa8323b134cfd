"""What ``tests/sanitize.sh --short`` cuts short, beside the same tests at full length.

The sanitizers look at the C: long tests of what is around it find nothing more there. All runs at
full length in ``tests/run.sh``, and in ``tests/sanitize.sh`` without ``--short``.
"""

from __future__ import annotations

import os

__all__ = ["SHORT"]

SHORT = "ZKS_TEST_SHORT" in os.environ
