"""What is used of trio-websocket, though it is private there, is checked."""

from __future__ import annotations

import pytest
import trio_websocket

from zks_lwip.carrier.dependencies import check_class


def test_the_installed_version_has_all() -> None:
    check_class(trio_websocket.WebSocketConnection, "installed")


def test_a_version_that_lacks_something_is_named() -> None:
    class Changed:
        def __init__(self, stream: object, host: str = "") -> None:
            self._pings = stream, host

        async def _send(self, event: object) -> None:
            pass

        def _reader_task(self) -> None:
            pass

    with pytest.raises(ImportError) as caught:
        check_class(Changed, "9.9.9")
    text = str(caught.value)
    assert "trio-websocket 9.9.9" in text and "<0.13" in text
    for missing in ("_reader_task", "_get_request", "_send_channel", "the parameter path"):
        assert missing in text
    for there in ("_send,", "_pings", "parameter stream", "parameter host"):
        assert there not in text
