"""systemd-resolved, resolvconf and openresolv for the tests, without installing them: ``python -m
tests.kits.resolver_programs``.

Installed, they would take over the machine's /etc/resolv.conf, and exclude each other. So their
packages are only unpacked, each into a folder of its own below ``build/test-programs``.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

from tests.kits import programs

PACKAGES = {
    "systemd-resolved": "lib/systemd/systemd-resolved",
    "resolvconf": "sbin/resolvconf",
    "openresolv": "sbin/resolvconf",
}


@cache
def unpacked(package: str) -> Path | None:
    """The folder that the package is unpacked in; None if it is not to be had."""
    root = programs.ROOT / package
    wanted = [root / PACKAGES[package], root / "usr" / PACKAGES[package]]
    found = programs.fetch(package, root, lambda: any(path.is_file() for path in wanted))
    return root if found else None


def main() -> int:
    """Bring all of them; those that cannot be had are named."""
    missing = [package for package in PACKAGES if unpacked(package) is None]
    if missing:
        print(f"Not to be had, so that some tests are skipped: {', '.join(missing)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
