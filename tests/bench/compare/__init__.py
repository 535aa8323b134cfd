"""Everything against everything: our tunnel beside others, in the same sitting, in namespaces.

- ``figures``: what has been measured, and its arithmetic: medians, spread, ratios.
- ``report``: a Markdown table and JSON of it; ``plot``: an SVG (matplotlib).
- ``contenders``: the direct path, ours; ``peers``: programs of others, and those of a script.
- ``site``: the namespaces, the far end and its load (``load``, C), contenders that are up.
- ``measures``: what is measured, one step at a time; ``links``: over slow and long links;
  ``starts``: how long it takes until bytes flow.
- ``run``: interleaves them; ``main`` reads the command line.
"""

from __future__ import annotations

from tests.bench.compare.main import main

__all__ = ["main"]
