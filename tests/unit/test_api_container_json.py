"""Containers and execs as dockerd renders them: its recorded answers, parsed and rendered again."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from common.times import parse_timestamp
from compat_api import container_json
from compat_api.container_fields import CONFIG, ENDPOINT, HOST_CONFIG
from compat_api.times import human_duration
from lifecycle._pb import containers_pb2 as pb

RECORDED = Path(__file__).parents[1] / "compat" / "recorded"
STATUS = {name: number for number, name in container_json.STATUS_NAMES.items()}
SECOND = 1_000_000_000

# A plain message attribute for each of Docker's names.
TOP = {
    "Id": "id",
    "Path": "path",
    "Image": "image_id",
    "ResolvConfPath": "resolv_conf_path",
    "HostnamePath": "hostname_path",
    "HostsPath": "hosts_path",
    "LogPath": "log_path",
    "Driver": "driver",
    "Platform": "platform",
}
ENDPOINT_NAMES = {
    "NetworkID": "network_id",
    "EndpointID": "endpoint_id",
    "Gateway": "gateway",
    "IPAddress": "ip_address",
    "IPPrefixLen": "ip_prefix_len",
    "IPv6Gateway": "ipv6_gateway",
    "GlobalIPv6Address": "ipv6_address",
    "GlobalIPv6PrefixLen": "ipv6_prefix_len",
}
MOUNT_NAMES = {
    "Type": "type",
    "Name": "name",
    "Source": "source",
    "Destination": "destination",
    "Driver": "driver",
    "Mode": "mode",
    "RW": "read_write",
    "Propagation": "propagation",
}


def recorded(name: str) -> Any:
    return json.loads((RECORDED / f"{name}.json").read_text())


def nanoseconds(text: str) -> int:
    return 0 if text.startswith("0001") else parse_timestamp(text)


def message(body: dict[str, Any]) -> pb.Container:
    """The container that an inspect body shows."""
    container = pb.Container(
        name=body["Name"][1:], created=nanoseconds(body["Created"]), args=body["Args"]
    )
    for name, attribute in TOP.items():
        setattr(container, attribute, body[name])
    HOST_CONFIG.parse(body["HostConfig"], container.host_config, ".HostConfig")
    CONFIG.parse(body["Config"], container.config, ".Config")
    container.snapshot.update(body["GraphDriver"]["Data"])
    set_state(container.state, body["State"])
    for item in body["Mounts"]:
        container.mounts.add(**{MOUNT_NAMES[key]: value for key, value in item.items()})
    set_network(container, body["NetworkSettings"])
    return container


def set_state(state: pb.State, body: dict[str, Any]) -> None:
    state.status = STATUS[body["Status"]]
    state.pid = body["Pid"]
    state.exit_code = body["ExitCode"]
    state.error = body["Error"]
    state.started_at = nanoseconds(body["StartedAt"])
    state.finished_at = nanoseconds(body["FinishedAt"])
    if "Health" in body:
        health = body["Health"]
        state.health.status = health["Status"]
        state.health.failing_streak = health["FailingStreak"]
        for entry in health["Log"]:
            state.health.log.add(
                start=nanoseconds(entry["Start"]),
                end=nanoseconds(entry["End"]),
                exit_code=entry["ExitCode"],
                output=entry["Output"],
            )


def set_network(container: pb.Container, body: dict[str, Any]) -> None:
    container.sandbox_id = body["SandboxID"]
    container.sandbox_key = body["SandboxKey"]
    holder = pb.HostConfig()
    HOST_CONFIG.parse({"PortBindings": body["Ports"]}, holder, "")
    container.ports.extend(holder.port_bindings)
    for network, settings in body["Networks"].items():
        endpoint = container.endpoints.add(network=network, dns_names=settings["DNSNames"] or [])
        # No address was asked for; the one shown was given.
        ENDPOINT.parse({**settings, "MacAddress": None}, endpoint, network)
        endpoint.assigned_mac = settings["MacAddress"]
        for name, attribute in ENDPOINT_NAMES.items():
            setattr(endpoint, attribute, settings[name])


@pytest.mark.parametrize("name", ["full", "bridge", "min", "empty"])
def test_inspect_is_dockerds(name: str) -> None:
    body = recorded(f"inspect_{name}")
    expected = copy.deepcopy(body)
    for endpoint in expected["NetworkSettings"]["Networks"].values():
        # The contract has no {} for these: nobody compares them.
        endpoint["DriverOpts"] = endpoint["DriverOpts"] or None
    assert container_json.inspect_body(message(body)) == expected


def test_the_mac_address_asked_for_is_in_the_config_too() -> None:
    container = pb.Container(host_config=pb.HostConfig(network_mode="net"))
    container.state.status = pb.CREATED
    container.endpoints.add(network="net", mac_address="02:42:ac:11:00:42")
    body = container_json.inspect_body(container)
    assert body["Config"]["MacAddress"] == "02:42:ac:11:00:42"
    assert body["NetworkSettings"]["Networks"]["net"]["MacAddress"] == "02:42:ac:11:00:42"


def test_list_is_dockerds() -> None:
    listed = {item["Names"][0]: item for item in recorded("list")}
    inspected = recorded("inspect_bridge")
    container = message(inspected)
    body = container_json.summary_body(container, container.state.started_at + SECOND)
    expected = listed["/ls-bridge"]
    key = lambda port: port.get("IP", "")  # noqa: E731
    assert sorted(body.pop("Ports"), key=key) == sorted(expected.pop("Ports"), key=key)
    assert body == expected


def test_exec_is_dockerds() -> None:
    body = recorded("exec")
    found = pb.Exec(
        id=body["ID"],
        container_id=body["ContainerID"],
        running=True,
        pid=body["Pid"],
        request=pb.CreateExecRequest(cmd=["sleep", "50"], privileged=True, user="0"),
    )
    assert container_json.exec_body(found) == body
    found.exit_code = 0
    found.request.detach_keys = "ctrl-p,q"
    again = container_json.exec_body(found)
    assert (again["ExitCode"], again["DetachKeys"]) == (0, "EHE=")


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({"status": pb.CREATED}, "Created"),
        ({"status": pb.RUNNING, "started_at": SECOND}, "Up 9 seconds"),
        ({"status": pb.PAUSED, "started_at": SECOND}, "Up 9 seconds (Paused)"),
        ({"status": pb.RESTARTING, "exit_code": 3, "finished_at": 9 * SECOND}, None),
        ({"status": pb.EXITED, "exit_code": 1, "started_at": 1, "finished_at": SECOND}, None),
        ({"status": pb.DEAD}, "Dead"),
        ({"status": pb.REMOVING}, "Removal In Progress"),
    ],
)
def test_status_text(state: dict[str, Any], text: str | None) -> None:
    shown = container_json.status_text(pb.State(**state), 10 * SECOND)
    if text is None:
        pattern = r"(Restarting \(3\) 1 second ago)|(Exited \(1\) 9 seconds ago)"
        assert re.fullmatch(pattern, shown)
    else:
        assert shown == text


def test_status_text_has_the_health() -> None:
    state = pb.State(status=pb.RUNNING, started_at=SECOND, health=pb.Health(status="starting"))
    assert container_json.status_text(state, 2 * SECOND) == "Up 1 second (health: starting)"
    state.health.status = "unhealthy"
    assert container_json.status_text(state, 2 * SECOND) == "Up 1 second (unhealthy)"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (3599, "59 minutes"),
        (3600, "About an hour"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (14 * 86400, "2 weeks"),
        (60 * 86400, "2 months"),
        (730 * 86400, "2 years"),
    ],
)
def test_human_duration(seconds: float, text: str) -> None:
    assert human_duration(int(seconds * SECOND)) == text
