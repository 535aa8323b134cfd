"""What plans for macOS and Windows have in common."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.kits.plans import networks
from zks_lwip.errors import ConfigError
from zks_lwip.host.plan.config import HostConfig, KillSwitch
from zks_lwip.host.plan.halves import captured, check_wishes, is_within

WORKER = HostConfig(peers=networks("203.0.113.9/32"))


@pytest.mark.parametrize("system", ["macOS", "Windows"])
@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"bypass_users": (501,)}, "`host.bypass` user:NAME works on Linux only"),
        ({"forward": True}, "`host.forward` works on Linux only"),
        ({"inbound": (22,)}, "`host.inbound` works on Linux only"),
        ({"exclude": True}, "`allow_exclude` works on Linux only"),
        ({"user": "daemon"}, "`user` works on Linux only"),
        ({"kill_switch": KillSwitch.ROUTE}, "`kill_switch` route works on Linux only: on {}"),
        ({"peers": None}, "`worker` is needed on {}"),
    ],
)
def test_what_only_linux_can_do_is_refused(
    system: str, wishes: dict[str, object], message: str
) -> None:
    check_wishes(WORKER, system)
    with pytest.raises(ConfigError) as caught:
        check_wishes(replace(WORKER, **wishes), system)  # type: ignore[arg-type]
    option, _, text = message.format(system).removeprefix("`").partition("` ")
    assert caught.value.option == option and text in str(caught.value)


def test_what_is_captured() -> None:
    assert captured(WORKER, 4) == ["0.0.0.0/1", "128.0.0.0/1"]
    only = replace(WORKER, only=networks("192.0.2.0/24", "2001:db8::/32"))
    assert captured(only, 4) == ["192.0.2.0/24"] and captured(only, 6) == ["2001:db8::/32"]


def test_a_network_within_another() -> None:
    whole, half, other, six = networks("10.0.0.0/8", "10.128.0.0/9", "11.0.0.0/8", "::/0")
    assert is_within(half, whole) and not is_within(whole, half)
    assert not is_within(other, whole) and not is_within(half, six)
