"""What is covered for a rootless command, on file systems of several kinds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("namespaces are Linux's", allow_module_level=True)

import pwd

from zks_lwip._lwip import lib

from zks_lwip.errors import PrivilegeError
from zks_lwip.host.resolv_conf import ResolvConf
from zks_lwip.host.rootless.errors import explain
from zks_lwip.host.rootless.mounts import (
    Mount,
    MountKind,
    isolation,
    names_by_dns_only,
    own_copies,
    resolv_conf,
)

R = "nameserver 1.2.3.4\n"


def build(root: Path, *paths: str) -> Path:
    for path in paths:
        if path.endswith("/"):
            (root / path).mkdir(parents=True)
        elif "->" in path:
            name, target = path.split("->")
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).symlink_to(target)
        else:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text("hosts: files resolve dns\n")
    return root


def mounts(root: Path, mirror_run: bool) -> list[tuple[str, str]]:
    found = isolation(R, mirror_run=mirror_run, root=root)
    return [(m.kind.name, m.path.removeprefix(f"{root}/")) for m in found]


def test_a_plain_host(tmp_path: Path) -> None:
    root = build(tmp_path, "etc/resolv.conf", "etc/nsswitch.conf", "run/nscd/", "var/run->../run")
    assert mounts(root, True) == [
        ("MIRROR", "run"), ("FILE", "etc/resolv.conf"), ("FILE", "etc/nsswitch.conf")]  # fmt: skip
    assert mounts(root, False)[0] == ("COVER", "run/nscd")


@pytest.mark.parametrize("mirror_run", [True, False])
def test_systemd_resolved(tmp_path: Path, mirror_run: bool) -> None:
    stub = "run/systemd/resolve/stub-resolv.conf"
    root = build(tmp_path, stub, f"etc/resolv.conf->../{stub}", "run/dbus/", "var/run->../run")
    expected = [
        ("COVER", "run/systemd/resolve"),
        ("PUT", "run/systemd/resolve/resolv.conf"),
        ("PUT", stub),
    ]
    first = ("MIRROR", "run") if mirror_run else ("COVER", "run/dbus")
    assert mounts(root, mirror_run) == [first, *expected]


@pytest.mark.parametrize("how", ["etc/resolv.conf->../run/nowhere/resolv.conf", "etc/"])
def test_dangling_or_missing(tmp_path: Path, how: str) -> None:
    root = build(tmp_path, how, "run/", "var/run->../run")
    found = isolation(R, mirror_run=True, root=root)[1:]
    assert [(m.kind, m.content) for m in found] == [
        (MountKind.MIRROR, "resolv.conf"), (MountKind.PUT, R)]  # fmt: skip


def test_an_old_fashioned_var_run_and_sssd(tmp_path: Path) -> None:
    root = build(tmp_path, "etc/resolv.conf", "var/run/nscd/", "var/lib/sss/pipes/")
    assert mounts(root, True)[:2] == [("COVER", "var/run/nscd"), ("COVER", "var/lib/sss/pipes")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hosts: files mdns4 dns\n", "hosts:          files dns\n"),
        ("hosts: files dns myhostname # x\n", "hosts:          files myhostname dns\n"),
        (
            "hosts: mymachines resolve [!UNAVAIL=return] files myhostname dns\n",
            "hosts:          files myhostname dns\n",
        ),
        ("hosts: files dns # myhostname\n", "hosts:          files dns\n"),
        (
            "passwd: sss\n  hosts :\tresolve [!UNAVAIL=return]\nx: y",
            "passwd: sss\nhosts:          files dns\nx: y",
        ),
        ("# hosts: here\n", "# hosts: here\nhosts:          files dns\n"),
        ("", "\nhosts:          files dns\n"),
    ],
)
def test_nsswitch(text: str, expected: str) -> None:
    assert names_by_dns_only(text) == expected


def test_resolv_conf() -> None:
    lines = resolv_conf("198.18.0.2").splitlines()
    assert [line for line in lines if not line.startswith("#")] == [
        "nameserver 198.18.0.2", "options edns0"]  # fmt: skip
    lines = resolv_conf("198.18.0.2", ResolvConf(("corp.example",), ("trust-ad",))).splitlines()
    assert lines[1:] == [
        "nameserver 198.18.0.2", "search corp.example", "options edns0 trust-ad"]  # fmt: skip


@pytest.mark.parametrize("known", [True, False])
def test_a_user_whom_only_a_covered_service_knows(
    tmp_path: Path, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sssd's sockets are covered: its users would have no name, and ssh no user."""
    names = ("jo", "*", 4242, 4243, "Jo", "/home/jo", "/bin/sh")
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: pwd.struct_passwd(names))
    (tmp_path / "etc").mkdir()
    text = "root:x:0:0::/root:/bin/sh\n"
    own = "jo:x:4242:4243:Jo:/home/jo:/bin/sh\n"
    (tmp_path / "etc/passwd").write_text(text + (own if known else ""))
    expected = [Mount(MountKind.FILE, f"{tmp_path}/etc/passwd", text + own)]
    assert own_copies(tmp_path) == ([] if known else expected)
    (tmp_path / "etc/passwd").unlink()
    assert own_copies(tmp_path) == []


@pytest.mark.parametrize(
    ("setting", "value", "step", "code", "message"),
    [
        ("kernel/unprivileged_userns_clone", "0", "USERNS", 1, "unprivileged_userns_clone is 0"),
        ("user/max_user_namespaces", "0", "USERNS", 28, "user.max_user_namespaces is 0"),
        ("user/max_net_namespaces", "0", "NAMESPACES", 28, "user.max_net_namespaces is 0"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "IDMAP", 1, "restrict_unprivileged"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "NAMESPACES", 1, "AppArmor profile"),
        ("kernel/apparmor_restrict_unprivileged_userns", "0", "USERNS", 1, "seccomp=unconfined"),
        ("none", "", "USERNS", 1, "--device /dev/net/tun"),
        ("none", "", "USERNS", 22, "CONFIG_USER_NS"),
        ("none", "", "TUN_OPEN", 13, "chmod 0666 /x"),
        ("none", "", "TUN_OPEN", 1, "device list"),
        ("none", "", "MOUNT", 1, "cannot mount over /x"),
    ],
)
def test_the_setting_is_named(
    tmp_path: Path,
    setting: str,
    value: str,
    step: str,
    code: int,
    message: str,
) -> None:
    path = tmp_path / setting
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{value}\n")
    error = explain(getattr(lib, f"ZKS_NSRUN_{step}"), code, "/x", tmp_path)
    assert isinstance(error, PrivilegeError) and message in str(error)


@pytest.mark.parametrize(("step", "code"), [("USERNS", 1), ("MOUNT", 22)])
def test_a_plain_chroot_is_named(tmp_path: Path, step: str, code: int) -> None:
    """Its root is no mount point, and no user namespace may be made in it."""
    mounts = tmp_path / "mountinfo"
    inside = "29 1 0:26 / /proc rw - proc proc rw\n"
    whole = "22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n"
    for text, named in ((inside, True), (whole + inside, False)):
        mounts.write_text(text)
        error = explain(getattr(lib, f"ZKS_NSRUN_{step}"), code, "/", tmp_path, mounts)
        assert ("that of a plain chroot, no mount point" in str(error)) is named
