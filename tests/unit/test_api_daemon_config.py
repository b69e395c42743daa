"""dockerd's options on the command line and in daemon.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from common.options import AddressPool, EngineOptions, RuntimeOption, UlimitOption
from compat_api import daemon_config, listeners
from compat_api.daemon_config import DaemonConfig, load
from compat_api.daemon_flags import ConfigError, FlagError, help_text
from compat_api.daemon_options import OPTIONS


@pytest.fixture(autouse=True)
def _no_file_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon_config, "DEFAULT_FILE", tmp_path / "absent.json")


def config(*arguments: str) -> DaemonConfig:
    return load(arguments)[0]


def with_file(directory: Path, content: Any, *arguments: str) -> DaemonConfig:
    path = directory / "daemon.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return config("--config-file", str(path), *arguments)


def test_defaults() -> None:
    found = config()
    assert found.hosts == ("unix:///var/run/docker.sock",)
    assert found.engine == EngineOptions()
    assert found.tls is None


def test_flags() -> None:
    found = config(
        "-D", "-Hunix:///a", "--host=tcp://127.0.0.1:1", "-l", "warn", "--icc=false",
        "--add-runtime", "crun=/bin/crun", "--default-ulimit", "nofile=1:2",
        "--default-address-pool", "base=10.0.0.0/8,size=24", "--log-opt", "max-size=1m",
        "--log-opt", "max-file=2", "--default-shm-size", "1g", "--label", "a=b", "--mtu", "9000",
        "--default-network-opt", "bridge=com.docker.network.driver.mtu=1400",
    )  # fmt: skip
    assert found.hosts == ("unix:///a", "tcp://127.0.0.1:1")
    assert found.engine == EngineOptions(
        debug=True,
        log_level="warn",
        inter_container=False,
        runtimes=(RuntimeOption("crun", "/bin/crun"),),
        default_ulimits=(UlimitOption("nofile", 1, 2),),
        default_address_pools=(AddressPool("10.0.0.0/8", 24),),
        default_network_options={"bridge": {"com.docker.network.driver.mtu": "1400"}},
        log_options={"max-size": "1m", "max-file": "2"},
        default_shm_size=1 << 30,
        labels=("a=b",),
        mtu=9000,
    )
    assert EngineOptions.from_json(found.engine.to_json()) == found.engine


def test_file(tmp_path: Path) -> None:
    content = {
        "hosts": ["unix:///a"],
        "debug": True,
        "icc": False,
        "labels": ["a=b"],
        "runtimes": {"crun": {"path": "/bin/crun", "runtimeArgs": ["--x"]}},
        "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 1, "Hard": 2}},
        "default-address-pools": [{"base": "10.0.0.0/8", "size": 24}],
        "default-shm-size": "64m",
        "log-opts": {"max-size": "1m"},
        "registry-mirrors": ["http://mirror:5000"],
        "features": {"containerd-snapshotter": False},
    }
    found = with_file(tmp_path, content, "--add-runtime", "other=/bin/other")
    assert found.hosts == ("unix:///a",)
    assert found.engine == EngineOptions(
        debug=True,
        inter_container=False,
        labels=("a=b",),
        runtimes=(
            RuntimeOption("crun", "/bin/crun", ("--x",)),
            RuntimeOption("other", "/bin/other"),
        ),
        default_ulimits=(UlimitOption("nofile", 1, 2),),
        default_address_pools=(AddressPool("10.0.0.0/8", 24),),
        default_shm_size=64 << 20,
        log_options={"max-size": "1m"},
        registry_mirrors=("http://mirror:5000",),
    )


def test_an_empty_file_is_fine(tmp_path: Path) -> None:
    assert with_file(tmp_path, " \n").engine == EngineOptions()


@pytest.mark.parametrize(
    ("content", "arguments", "text"),
    [
        ({"foo": 1}, (), "the following directives don't match any configuration option: foo"),
        (
            {"labels": ["a=b"]},
            ("--label", "c=d"),
            "the following directives are specified both as a flag and in the configuration file: "
            "labels: (from flag: ['c=d'], from file: ['a=b'])",
        ),
        ({"debug": "yes"}, (), "cannot unmarshal"),
        ("{", (), "unable to configure the daemon with file"),
        ({"selinux-enabled": True}, (), "--selinux-enabled is not supported"),
        ({"features": {"containerd-snapshotter": True}}, (), "--feature containerd-snapshotter"),
    ],
)
def test_file_errors(tmp_path: Path, content: Any, arguments: tuple[str, ...], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        with_file(tmp_path, content, *arguments)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--nope",), "unknown flag: --nope"),
        (("-x",), "unknown shorthand flag: 'x' in -x"),
        (("--mtu",), "flag needs an argument: --mtu"),
        (("--mtu", "x"), 'invalid argument "x" for "--mtu" flag'),
        (("word",), "unknown command: longshored word"),
    ],
)
def test_flag_errors(arguments: tuple[str, ...], text: str) -> None:
    with pytest.raises(FlagError) as caught:
        config(*arguments)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--config-file", "/absent"), "no such file or directory"),
        (("--data-root", "rel"), "must be an absolute path"),
        (("--log-level", "loud"), "invalid logging level: loud"),
        (("--exec-opt", "native.cgroupdriver=systemd"), "is not supported"),
        (("--storage-driver", "zfs"), "--storage-driver zfs is not supported"),
        (("--bip", "x"), "invalid --bip"),
        (("--dns", "x"), "invalid --dns"),
        (("--label", "x"), "bad attribute format: x"),
        (("--registry-mirror", "x"), "invalid mirror"),
    ],
)
def test_option_errors(arguments: tuple[str, ...], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(*arguments)
    assert text in str(caught.value)


def test_unsupported_options_may_be_turned_off() -> None:
    config("--selinux-enabled=false", "--experimental=false", "--metrics-addr=")


def test_userns_remap(tmp_path: Path) -> None:
    assert config("--userns-remap", "default").engine.userns_remap == "default"
    assert config("--userns-remap=").engine.userns_remap is None
    assert with_file(tmp_path, {"userns-remap": "me:us"}).engine.userns_remap == "me:us"


def test_help_names_what_is_supported() -> None:
    text = help_text()
    for option in OPTIONS:
        assert (f"--{option.flag}" in text.split()) == (not option.unsupported), option.flag


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ("127.0.0.1", 2375)),
        (":1", ("127.0.0.1", 1)),
        ("a:1", ("a", 1)),
        ("a", ("a", 2375)),
        ("[::1]:1", ("::1", 1)),
        ("0.0.0.0:1/", ("0.0.0.0", 1)),
    ],
)
def test_tcp_addresses(text: str, expected: tuple[str, int]) -> None:
    assert listeners.split_address(text, 2375) == expected


def test_open_tcp_without_tls_must_be_meant() -> None:
    with pytest.raises(ConfigError, match="without TLS"):
        listeners.open_listeners(config("-H", "tcp://0.0.0.0:0"))
    for found in listeners.open_listeners(config("-H", "tcp://0.0.0.0:0", "--tls=false")):
        found.socket.close()


def test_a_live_socket_is_refused_and_a_stale_one_replaced(tmp_path: Path) -> None:
    found = config("-H", f"unix://{tmp_path}/x.sock", "--group", "0")
    (first,) = listeners.open_listeners(found)
    assert (tmp_path / "x.sock").stat().st_mode & 0o777 == 0o660
    with pytest.raises(ConfigError, match="another daemon listens on it"):
        listeners.open_listeners(found)
    first.socket.close()
    (second,) = listeners.open_listeners(found)
    second.socket.close()
    (tmp_path / "x.sock").unlink()
    (tmp_path / "x.sock").write_text("precious")
    with pytest.raises(ConfigError, match="a file is in the way"):
        listeners.open_listeners(found)
