"""Why a user cannot have the namespaces or the TUN of ``run``, and the setting that decides it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from ..._lwip import lib
from ...errors import DeviceError, HostError, PrivilegeError, ZksError

__all__ = ["explain", "explain_user_namespace"]

_CONTAINER = (
    "in a container it takes `--security-opt seccomp=unconfined` (or a profile that allows unshare "
    "and mount), `--security-opt apparmor=unconfined` and `--device /dev/net/tun`"
)


_CHROOT = (
    "the root directory here is that of a plain chroot, no mount point. As root make it one before "
    "(`mount --bind DIR DIR`, then `chroot DIR`); as another user start `run` outside, or in a "
    "container, which changes its root by pivot_root (`systemd-nspawn -D DIR`, bwrap)"
)


def explain(
    step: int,
    code: int,
    detail: str,
    sysctls: Path = Path("/proc/sys"),
    mounts: Path = Path("/proc/self/mountinfo"),
) -> ZksError:
    """Return the error for a report of zks_nsrun.

    :param step: the step that failed, ``ZKS_NSRUN_*``.
    :param code: its errno.
    :param detail: what it was about, such as a path.
    :param sysctls: where the kernel's settings are.
    :param mounts: the mount points that this process sees.
    """
    reason = os.strerror(code)
    if step == lib.ZKS_NSRUN_TUN_OPEN:
        return _tun_node(code, detail, reason)
    if step == lib.ZKS_NSRUN_TUN_CREATE:
        message = f"cannot make the interface {detail} in the new namespace: {reason}"
        if code in (errno.ENOTTY, errno.EINVAL):
            message += "; is the device node (/dev/net/tun) really that of TUN, character 10:200?"
        return DeviceError(message)
    if step in (lib.ZKS_NSRUN_USERNS, lib.ZKS_NSRUN_IDMAP, lib.ZKS_NSRUN_NAMESPACES):
        return _namespaces(step, code, detail, sysctls, mounts)
    if step == lib.ZKS_NSRUN_MOUNT:
        message = f"cannot mount over {detail} in the command's namespace: {reason}"
        if code in (errno.EPERM, errno.EACCES):
            return PrivilegeError(f"{message}; {_apparmor(sysctls) or _CONTAINER}")
        if code == errno.EINVAL and _is_plain_chroot(mounts):
            message += f"; {_CHROOT}"
        return HostError(message)
    if step == lib.ZKS_NSRUN_NETWORK:
        return HostError(f"cannot configure {detail} in the command's namespace: {reason}")
    if step == lib.ZKS_NSRUN_ENTER:
        return HostError(f"cannot publish ports: cannot enter {detail}: {reason}")
    return HostError(f"cannot prepare the command's namespaces: {reason} ({detail})")


def explain_user_namespace(code: int) -> ZksError:
    """Return the error for a user namespace that cannot be made.

    :param code: the errno of unshare(2).
    """
    mounts = Path("/proc/self/mountinfo")
    return _namespaces(lib.ZKS_NSRUN_USERNS, code, "unshare", Path("/proc/sys"), mounts)


def _namespaces(step: int, code: int, detail: str, sysctls: Path, mounts: Path) -> ZksError:
    reason = f"{detail}: {os.strerror(code)}"
    message = f"the system does not allow `run` to make its namespaces ({reason})"
    if code in (errno.ENOSPC, errno.EUSERS):
        if step == lib.ZKS_NSRUN_USERNS:
            return PrivilegeError(f"{message}: {_limits(sysctls, 'user')}")
        return PrivilegeError(f"{message}: {_limits(sysctls, 'net', 'mnt')}")
    if code == errno.EINVAL:
        return PrivilegeError(
            f"{message}: this kernel has no user namespaces (CONFIG_USER_NS); run it as root"
        )
    if code not in (errno.EPERM, errno.EACCES):
        return HostError(message)
    in_userns = step == lib.ZKS_NSRUN_USERNS
    if in_userns and _is_plain_chroot(mounts):
        return PrivilegeError(f"{message}: {_CHROOT}")
    if in_userns and _setting(sysctls, "kernel/unprivileged_userns_clone") == "0":
        return PrivilegeError(
            f"{message}: kernel.unprivileged_userns_clone is 0; "
            "`sudo sysctl -w kernel.unprivileged_userns_clone=1` allows it, or run it as root"
        )
    if in_userns and _setting(sysctls, "user/max_user_namespaces") == "0":
        return PrivilegeError(f"{message}: {_limits(sysctls, 'user')}")
    return PrivilegeError(f"{message}: {_apparmor(sysctls) or _CONTAINER}")


def _is_plain_chroot(mounts: Path) -> bool:
    """Return whether the root directory is no mount point, as far as it is seen."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return not any(line.split()[4:5] == ["/"] for line in lines)


def _limits(sysctls: Path, *kinds: str) -> str:
    names = [f"user.max_{kind}_namespaces" for kind in kinds]
    values = [_setting(sysctls, name.replace(".", "/")) or "?" for name in names]
    now = " and ".join(f"{name} is {value}" for name, value in zip(names, values, strict=True))
    return f"{now}; raise it (`sudo sysctl -w {names[0]}=10000`), or run it as root"


def _apparmor(sysctls: Path) -> str | None:
    """Return the advice for AppArmor, if that is why: Ubuntu 24.04 lets any program make a user
    namespace, but without capabilities in it.
    """
    name = "apparmor_restrict_unprivileged_userns"
    if _setting(sysctls, f"kernel/{name}") in (None, "0"):
        return None
    return (
        f"kernel.{name} is 1; `sudo sysctl -w kernel.{name}=0` allows it, or an AppArmor profile "
        "with `userns,` for this Python, or run it as root"
    )


def _tun_node(code: int, node: str, reason: str) -> ZksError:
    if code in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return DeviceError(
            f"{node} is not there ({reason}): load the module (`sudo modprobe tun`); in a "
            "container pass the device (`--device /dev/net/tun`)"
        )
    if code == errno.EACCES:
        return PrivilegeError(
            f"{node} may not be opened ({reason}): it must be usable for everybody, as "
            f"distributions have it (`sudo chmod 0666 {node}`), or run it as root"
        )
    if code == errno.EPERM:
        return PrivilegeError(
            f"{node} may not be opened ({reason}): the container's device list forbids it; start "
            "the container with `--device /dev/net/tun`"
        )
    return DeviceError(f"cannot open {node}: {reason}")


def _setting(sysctls: Path, name: str) -> str | None:
    try:
        return (sysctls / name).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None  # this kernel does not have it
