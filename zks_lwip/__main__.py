"""``python -m zks_lwip``."""

from __future__ import annotations

from .cli import main

if __name__ == "__main__":
    main(prog_name="python -m zks_lwip")
