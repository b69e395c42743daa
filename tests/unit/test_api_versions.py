"""Old clients: requests lifted to the newest version of the API, and answers lowered again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from common.errors import InvalidArgument
from compat_api.container_create import VOLUME_DRIVER_WARNING, create_request
from compat_api.containers import READ_ONLY_NON_RECURSIVE
from compat_api.endpoint_checks import ENDPOINT_SYSCTLS
from compat_api.release import NEWEST, OLDEST
from compat_api.resources import ROUTES
from compat_api.versions import Version, _change_modules, changes_for, parse
from compat_api.versions.edits import (
    CONTAINER_INSPECT,
    CREATE,
    IMAGE_INSPECT,
    IMAGE_LIST,
    INFO,
)


def lift(version: Version, endpoint: str, body: dict[str, Any]) -> list[str]:
    """Lift ``body`` in place; returns the warnings."""
    request: Any = SimpleNamespace(warnings=[])
    for change in changes_for(version, endpoint):
        change.lift_body(body, request)
    warnings: list[str] = request.warnings
    return warnings


def lift_query(version: Version, endpoint: str, query: dict[str, list[str]]) -> None:
    for change in changes_for(version, endpoint):
        change.lift_query(query, SimpleNamespace())  # type: ignore[arg-type]


def lower(version: Version, endpoint: str, body: Any) -> Any:
    for change in reversed(changes_for(version, endpoint)):
        body = change.lower_body(body, SimpleNamespace())  # type: ignore[arg-type]
    return body


def test_every_change_is_about_a_route() -> None:
    endpoints = {route.endpoint for route in ROUTES}
    for endpoint in endpoints:
        assert changes_for(NEWEST, endpoint) == ()
    modules = _change_modules()
    assert max(modules) <= NEWEST
    assert min(modules) > OLDEST
    named = {
        endpoint
        for found in endpoints
        for change in changes_for(OLDEST, found)
        for endpoint in change.endpoints
    }
    assert named
    assert named <= endpoints


@pytest.mark.parametrize(
    ("text", "version"), [("1.51", (1, 51)), ("1.", (1, 0)), ("2", (2,)), ("1.24.1", (1, 24, 1))]
)
def test_parse(text: str, version: Version) -> None:
    assert parse(text) == version


def test_images_of_each_age() -> None:
    image = {"Size": 5, "Config": {"User": ""}}
    assert lower((1, 50), IMAGE_INSPECT, dict(image)) == image
    assert lower((1, 49), IMAGE_INSPECT, {"Size": 5, "Config": {}})["Config"]["Tty"] is False
    body = lower((1, 43), IMAGE_INSPECT, {"Size": 5, "Config": {}})
    assert body["VirtualSize"] == 5
    assert body["Created"] == "0001-01-01T00:00:00Z"
    assert body["ContainerConfig"]["Cmd"] is None
    listed = [{"Size": 5, "Containers": 2, "RepoTags": [], "RepoDigests": []}]
    assert lower((1, 42), IMAGE_LIST, listed) == [
        {
            "Size": 5,
            "Containers": -1,
            "RepoTags": ["<none>:<none>"],
            "RepoDigests": ["<none>@<none>"],
            "VirtualSize": 5,
        }
    ]


def test_aliases_have_the_short_id_for_old_clients() -> None:
    def body() -> dict[str, Any]:
        networks = {"net": {"Aliases": ["a"]}, "bridge": {"Aliases": None}}
        return {
            "Id": "a" * 64,
            "Config": {"Hostname": "h"},
            "NetworkSettings": {"Networks": networks},
        }

    old = lower((1, 44), CONTAINER_INSPECT, body())["NetworkSettings"]["Networks"]
    assert old == {"net": {"Aliases": ["a", "a" * 12, "h"]}, "bridge": {"Aliases": None}}
    assert lower((1, 45), CONTAINER_INSPECT, body()) == body()


def test_the_mac_address_of_old_clients_needs_no_warning() -> None:
    body = {"Image": "x", "MacAddress": "02:42:ac:11:00:42", "HostConfig": {"NetworkMode": "net"}}
    lift((1, 43), CREATE, body)
    request, warnings = create_request(body, name="", platform="")
    assert [(item.network, item.mac_address) for item in request.endpoints] == [
        ("net", "02:42:ac:11:00:42")
    ]
    assert warnings == []


def test_old_clients_cannot_ask_for_what_came_later() -> None:
    cases: list[tuple[Version, dict[str, Any], str]] = [
        (
            (1, 43),
            {"NetworkingConfig": {"EndpointsConfig": {"a": {}, "b": {}}}},
            "multiple network",
        ),
        ((1, 44), {"HostConfig": {"Mounts": [{"VolumeOptions": {"Subpath": "x"}}]}}, "Subpath"),
        ((1, 47), {"HostConfig": {"Mounts": [{"Type": "image"}]}}, "Mount type"),
    ]
    for version, body, text in cases:
        with pytest.raises(InvalidArgument, match=text):
            lift(version, CREATE, body)
        following = (1, version[1] + 1)
        lift(following, CREATE, body)


def test_sysctls_of_an_interface_move_to_the_endpoint() -> None:
    sysctls = {"net.ipv4.conf.eth0.forwarding": "1", "kernel.sem": "1"}
    body: dict[str, Any] = {"HostConfig": {"Sysctls": sysctls}}
    warnings = lift((1, 47), CREATE, body)
    assert body["HostConfig"]["Sysctls"] == {"kernel.sem": "1"}
    options = body["NetworkingConfig"]["EndpointsConfig"]["bridge"]["DriverOpts"]
    assert options == {ENDPOINT_SYSCTLS: "net.ipv4.conf.IFNAME.forwarding=1"}
    assert warnings[0].startswith('Migrated sysctl "net.ipv4.conf.eth0.forwarding" to DriverOpts{')


def test_defaults_that_changed() -> None:
    body: dict[str, Any] = {"HostConfig": {"ConsoleSize": [1, 2], "AutoRemove": True}}
    lift((1, 24), CREATE, body)
    assert body["HostConfig"]["IpcMode"] == "shareable"
    assert "ConsoleSize" not in body["HostConfig"]
    assert "AutoRemove" not in body["HostConfig"]
    query: dict[str, list[str]] = {}
    lift_query((1, 44), CREATE, query)
    assert READ_ONLY_NON_RECURSIVE not in query
    lift_query((1, 43), CREATE, query)
    assert query[READ_ONLY_NON_RECURSIVE] == ["1"]


def test_parameters_that_old_versions_ignore() -> None:
    query = {"signal": ["KILL"], "t": ["1"]}
    lift_query((1, 41), "POST /containers/{name}/stop", query)
    assert query == {"t": ["1"]}
    query = {"filters": ['{"label":["a"]}']}
    lift_query((1, 41), "POST /volumes/prune", query)
    assert query == {"filters": ['{"label":["a"],"all":["true"]}']}
    query = {"filter": ["busy*"]}
    lift_query((1, 40), IMAGE_LIST, query)
    assert query == {"filters": ['{"reference":["busy*"]}']}


def test_content_types() -> None:
    multiplexed = "application/vnd.docker.multiplexed-stream"
    for version, expected in (
        ((1, 41), "application/vnd.docker.raw-stream"),
        ((1, 42), multiplexed),
    ):
        found = multiplexed
        for change in changes_for(version, "POST /containers/{name}/attach"):
            found = change.lower_content_type(found)
        assert found == expected


def test_events_that_came_later_are_left_out() -> None:
    event = {"Type": "image", "Action": "create"}
    assert lower((1, 45), "GET /events", dict(event)) is None
    assert lower((1, 46), "GET /events", dict(event)) == event


def test_info() -> None:
    commits = {name: {"ID": "x"} for name in ("ContainerdCommit", "RuncCommit", "InitCommit")}
    body = {
        **commits,
        "Runtimes": {"runc": {"path": "runc", "status": {}}},
        "RegistryConfig": {},
        "FirewallBackend": {},
        "Containerd": {},
        "KernelVersion": "",
        "OperatingSystem": "",
        "SecurityOptions": ["name=seccomp,profile=builtin"],
    }
    old = lower((1, 24), INFO, body)
    assert old["RuncCommit"] == {"ID": "x", "Expected": "x"}
    assert old["Runtimes"] == {"runc": {"path": "runc"}}
    assert old["SecurityOptions"] == ["seccomp"]
    assert old["KernelVersion"] == "<unknown>"
    assert not {"FirewallBackend", "Containerd"} & set(old)
    assert old["BridgeNfIptables"] is False


def test_the_volume_driver_warning_is_the_old_clients_own() -> None:
    body = {"Id": "x", "Warnings": ["a", VOLUME_DRIVER_WARNING]}
    assert lower((1, 47), CREATE, body)["Warnings"] == ["a"]
