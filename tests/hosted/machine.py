"""What tests on hosted machines do to them, and ask them, on every system."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.hosted.outside import WORKER, WORKER_PORT
from tests.kits.netns.child import Child

Picture = Mapping[str, Sequence[str]]
"""What a machine looks like: lines, by what they are of."""
ZKS = (sys.executable, "-m", "zks_lwip")
NAME = "page.example.org"
"""The worker's address has this name in the tunnel."""


def only_on(platform: str) -> pytest.MarkDecorator:
    """Skip tests but on hosted CI's machines of a system, of ``sys.platform``'s name."""
    return pytest.mark.skipif(
        sys.platform != platform or os.environ.get("ZKS_HOSTED") != "1",
        reason=f"changes the machine: in hosted CI only (ZKS_HOSTED=1, {platform})",
    )


def make_tokens(folder: Path) -> Path:
    """Write a token that worker and client read."""
    path = folder / "tokens"
    path.write_text("hosted 0123456789abcdef0123456789abcdef\n")
    path.chmod(0o600)
    return path


def make_certificate(folder: Path, name: str) -> None:
    """Write a worker's certificate and its key, and ``ca.pem``, with which clients trust it."""
    authority = trustme.CA()
    issued = authority.issue_cert(name)
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    issued.private_key_pem.write_to_path(str(folder / "privkey.pem"))
    (folder / "privkey.pem").chmod(0o600)
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    (folder / "fullchain.pem").write_bytes(chain)


def connect(tokens: Path, *options: str, new_group: bool = False) -> Child:
    """Start ``connect``, and wait until it is ready.

    :param new_group: on Windows, it can be sent Ctrl-Break.
    """
    url = f"ws://{WORKER}:{WORKER_PORT}"
    argv = [*ZKS, "connect", "--worker", url, "--plaintext", "--token-file", str(tokens)]
    argv += ["--dns-static", f"{NAME}={WORKER}", "-v", *options]
    child = Child("connect", argv, new_group=new_group)
    try:
        child.wait_for("^ready: ")
    except BaseException:
        child.process.kill()
        child.wait()
        raise
    return child


def command(*words: str, code: int = 0) -> str:
    """Run a command of ours; return its output."""
    child = Child(words[0], [*ZKS, *words])
    assert child.wait() == code, child.output
    return "\n".join(child.stdout)


def status(code: int = 0) -> dict[str, Any]:
    """Ask how the instance does."""
    found: dict[str, Any] = json.loads(command("status", "--json", code=code))
    return found


def settled(look: Callable[[], Picture], *, seconds: float = 3.0) -> Picture:
    """Wait until the machine looks the same for so long; return how.

    A new interface is given its own addresses, and their routes, a moment after it was made.
    """
    before, end = look(), time.monotonic() + 120
    while True:
        time.sleep(seconds)
        now = look()
        if not (changed := _changes(before, now)):
            return now
        assert time.monotonic() < end, "\n".join(changed)
        before = now


def check_same(before: Picture, look: Callable[[], Picture]) -> None:
    """Wait until the machine looks as before: some of it is done behind what asks for it."""
    deadline = time.monotonic() + 30
    while changed := _changes(before, look()):
        assert time.monotonic() < deadline, "\n".join(changed)
        time.sleep(0.2)


def _changes(before: Picture, after: Picture) -> list[str]:
    found = []
    for key in before:
        found += [f"{key}: gone: {line}" for line in before[key] if line not in after[key]]
        found += [f"{key}: new: {line}" for line in after[key] if line not in before[key]]
    return found
