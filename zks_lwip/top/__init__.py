"""The live screen of ``top``: what a running instance does, drawn by rich.

:mod:`.model` keeps what was told, and makes rates of it; :mod:`.view` draws one frame; both are
pure. :mod:`.screen` asks the instance, reads keys, and draws again and again.
"""

from __future__ import annotations
