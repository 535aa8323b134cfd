"""Files of settings, end to end: the machine's, the user's, and what neither may change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kits.netns import lab
from tests.kits.netns.child import Child
from tests.kits.netns.lab import USER, WORKER4, WORKER_PORT, ZKS, Lab, Namespace

URL = f"ws://{WORKER4}:{WORKER_PORT}"


@pytest.fixture
def etc(net: Lab) -> Iterator[Path]:
    """A folder for the machine's file of settings."""
    folder = net.directory / "etc"
    folder.mkdir(mode=0o755)
    yield folder
    (folder / "zks_lwip.toml").unlink(missing_ok=True)
    folder.rmdir()


def system_file(etc: Path, text: str, mode: int = 0o644) -> Path:
    path = etc / "zks_lwip.toml"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def test_files_environment_and_flags_of_an_ordinary_user(
    net: Lab, worker: Child, run_host: Namespace, etc: Path, tmp_path: Path
) -> None:
    """The machine's file has the worker; of the MTU each that is nearer to the user wins."""
    system_file(
        etc,
        f'worker = "{URL}"\ntoken_file = "{net.token_file}"\nplaintext = true\n'
        "mtu = 1300\n[profile.small]\nmtu = 1290\n",
    )
    home = net.directory / "xdg"
    own = home / "zks_lwip" / "config.toml"
    own.parent.mkdir(parents=True, exist_ok=True)

    def run(*options: str, **environment: str) -> str:
        child = net.run(
            run_host,
            "ip",
            "-o",
            "link",
            "show",
            "zks0",
            options=options,
            embedded=True,
            user=USER,
            etc=etc,
            env={"XDG_CONFIG_HOME": str(home), **environment},
        )
        seen = child.succeed()
        child.no_traceback()
        return seen

    assert "mtu 1300" in run()
    own.write_text("mtu = 1310\n", encoding="utf-8")
    assert "mtu 1310" in run()
    assert "mtu 1290" in run("--profile", "small")
    assert "mtu 1320" in run("--profile", "small", ZKS_LWIP_MTU="1320")
    assert "mtu 1330" in run("--mtu", "1330", ZKS_LWIP_MTU="1320")


def test_connect_by_a_profile(net: Lab, worker: Child, tmp_path: Path) -> None:
    host = net.add_host()
    file = tmp_path / "settings.toml"
    file.write_text(
        f'[profile.home]\nworker = "{URL}"\ntoken = "{lab.TOKEN}"\nplaintext = true\ntun = "home0"',
        encoding="utf-8",
    )
    file.chmod(0o644)
    refused = net.connect(host, "--config", str(file), "home", embedded=True, ready=False)
    assert refused.wait() == 2
    assert "it holds a token, and others may read" in refused.output
    assert lab.TOKEN not in refused.output
    file.chmod(0o600)
    with net.connect(host, "--config", str(file), "home", embedded=True) as child:
        assert f"ready: home0 → {URL}/tunnel" in child.output
        child.no_traceback()


def test_a_machines_file_that_one_may_not_read_is_told(
    net: Lab, run_host: Namespace, etc: Path
) -> None:
    """What is in it, a worker perhaps, is not in force: no user should believe that it is."""
    system_file(etc, "mtu = 1300", 0o600)
    argv = [*ZKS, "config", "show", "run"]
    for user, shown in ((USER, "mtu = 1500"), (None, "mtu = 1300")):
        child = Child("config", run_host.command(argv, user=user, etc=etc))
        assert shown in child.succeed()
        told = "zks-lwip: /etc/zks_lwip.toml is not in force: Permission denied"
        assert (told in child.output) == (user is not None)


def test_settings_of_workers_are_not_for_the_embedded_one(
    net: Lab, run_host: Namespace, etc: Path
) -> None:
    system_file(etc, '[worker]\nlisten = "203.0.113.1:1"\ntls_cert = "/nonexistent"\n')
    variables = {"ZKS_LWIP_WORKER_LISTEN": "203.0.113.1:2", "ZKS_LWIP_LISTEN": "203.0.113.1:3"}
    child = net.run(run_host, "echo", "it runs", embedded=True, user=USER, etc=etc, env=variables)
    assert child.succeed() == "it runs"
    child.no_traceback()
