from __future__ import annotations

import gzip
import os
import re
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.sdist import sdist

sys.path.append(str(Path(__file__).resolve().parent))

import build_lwip  # noqa: E402 (lies where the path was just extended to)


class Sdist(sdist):
    """A source archive that has the same bytes wherever the same files are packed."""

    def make_archive(
        self,
        base_name: Any,
        format: str,
        root_dir: Any = None,
        base_dir: Any = None,
        owner: str | None = None,
        group: str | None = None,
    ) -> str:
        if format != "gztar":
            return super().make_archive(base_name, format, root_dir, base_dir, owner, group)
        made = int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())

        def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
            """Without what differs from one machine to another: owner, times, umask."""
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mtime = made
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            return member

        target = Path(f"{base_name}.tar.gz")
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            open(target, "wb") as file,
            gzip.GzipFile("", "wb", fileobj=file, mtime=made) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for path in sorted([Path(base_dir), *Path(base_dir).rglob("*")]):
                archive.add(path, path.as_posix(), recursive=False, filter=plain)
        return str(target)


def readme() -> str:
    """README without its picture, which the package index could not show."""
    text = Path(__file__).resolve().with_name("README.md").read_text(encoding="utf-8")
    return re.sub(r"^!\[[^]]*\]\([^)]*\)\n\n", "", text, flags=re.M)


setup(
    long_description=readme(),
    long_description_content_type="text/markdown",
    cffi_modules=["build_lwip.py:ffibuilder"],
    cmdclass={"build_ext": build_lwip.incremental_build_ext(), "sdist": Sdist},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
