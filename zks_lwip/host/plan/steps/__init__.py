"""The kinds of step, each one class: its commands, effect, undo and presence stand side by side.

To add a kind:

1. Write its class in a module here, a frozen dataclass below ``@kind``, which makes it known to the
   journal under its class's name (JSON comes from its fields). It acts through the
   :class:`~zks_lwip.host.plan.system.System` that it is handed; defaults of what it need not say
   are in :class:`~zks_lwip.host.plan.step.Step`. What the ``System`` cannot do yet (another kind
   of netlink request, say) is added to it, to ``linux/system.py``, and to the fake of the tests,
   ``tests/kits/host.py``.
2. Import it below.
3. Let :func:`~zks_lwip.host.plan.make.make_plan` put it where it belongs: what closes first, what
   opens last.
4. What :meth:`~zks_lwip.host.plan.step.Step.is_there` looks at comes from the
   :class:`~zks_lwip.host.plan.system.View`, which is a
   :class:`~zks_lwip.host.plan.state.HostState`: a fact that it does not have yet is added to both
   and read by :mod:`zks_lwip.host.linux.observe`.
   Changes of it that ``connect`` should notice at once are in ``_GROUPS`` of ``linux/monitor.py``.
5. Give ``tests/unit/host/test_steps.py`` an example of it; the tests there hold for every kind.

The journal, doing, undoing, pausing and ``recover`` ask the step. A few kinds are also asked for by
name: the firewall (``Nftables``) in ``linux/recover.py``, ``linux/instances.py`` and
``linux/host.py``, and ``Route`` and ``Rule``, which
``linux/observe.py`` makes of what it sees and ``linux/recover.py`` tells a closed host by.
"""

from __future__ import annotations

from ..step import Step, from_json, kind, render, to_json
from ._rtnetlink import PROTOCOL
from .exclusion import CGROUP_PREFIX, LEASE_SECONDS, MARKING_TABLE, Cgroup, Marking
from .nftables import TABLE_NAME, Nftables
from .resolver import LinkDns, Resolvconf, ResolverStep
from .route import Route
from .rule import MAIN, Rule
from .sysctl import SYSCTLS, Sysctl
from .tun import Address, LinkUp, Tun

__all__ = [
    "CGROUP_PREFIX",
    "LEASE_SECONDS",
    "MAIN",
    "MARKING_TABLE",
    "PROTOCOL",
    "SYSCTLS",
    "TABLE_NAME",
    "Address",
    "Cgroup",
    "LinkDns",
    "LinkUp",
    "Marking",
    "Nftables",
    "Resolvconf",
    "ResolverStep",
    "Route",
    "Rule",
    "Step",
    "Sysctl",
    "Tun",
    "from_json",
    "kind",
    "render",
    "to_json",
]
