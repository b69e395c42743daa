"""Bodies of containers/create: what they mean, and dockerd's words for what is wrong with them."""

from __future__ import annotations

from typing import Any

import pytest

from common.errors import EngineError, InvalidArgument
from compat_api.container_create import create_request, update_request
from lifecycle._pb import containers_pb2 as pb


def create(body: dict[str, Any], name: str = "") -> tuple[pb.CreateContainerRequest, list[str]]:
    return create_request({"Image": "busybox", **body}, name=name, platform="")


def test_a_small_body_gets_dockers_defaults() -> None:
    request, warnings = create({"Cmd": "true"}, "/box")
    assert request.name == "/box"
    assert request.host_config.network_mode == "bridge"
    assert request.host_config.restart_policy.name == "no"
    assert list(request.config.cmd.values) == ["true"]
    assert not request.config.HasField("entrypoint")
    assert warnings == []


def test_null_and_empty_are_told_apart() -> None:
    request, _ = create({"Cmd": None, "Env": [], "HostConfig": {"Binds": [], "CapAdd": None}})
    assert not request.config.HasField("cmd")
    assert request.config.HasField("env")
    assert request.host_config.HasField("binds")
    assert not request.host_config.HasField("cap_add")


def test_names_match_in_any_case() -> None:
    request, _ = create({"hostname": "a", "hostConfig": {"memory": 64 << 20}} | {"HostConfig": {}})
    assert request.config.hostname == "a"


def test_the_default_network_is_bridge_in_endpoints_too() -> None:
    request, _ = create({"NetworkingConfig": {"EndpointsConfig": {"default": None}}})
    assert [endpoint.network for endpoint in request.endpoints] == ["bridge"]


def test_the_mac_address_moves_to_the_endpoint() -> None:
    request, warnings = create({"MacAddress": "02:42:ac:11:00:42"})
    assert request.config.mac_address == ""
    assert request.endpoints[0].mac_address == "02:42:ac:11:00:42"
    assert warnings == [
        "The container-wide MacAddress field is now deprecated. "
        "It should be specified in EndpointsConfig instead."
    ]


def test_no_limit_of_tasks_is_absent() -> None:
    request, _ = create({"HostConfig": {"PidsLimit": -1, "MemorySwappiness": -1}})
    assert not request.host_config.resources.HasField("pids_limit")
    assert not request.host_config.resources.HasField("memory_swappiness")
    update = update_request({"PidsLimit": -1}, "x")
    assert update.resources.pids_limit == 0
    assert not update.HasField("restart_policy")


def test_only_a_host_config_is_no_config() -> None:
    with pytest.raises(InvalidArgument, match="config cannot be empty in order to create"):
        create_request({"HostConfig": {"Memory": 1}}, name="", platform="")


HOST_ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"Memory": "x"}, "invalid JSON: json: cannot unmarshal string into Go struct field "
     ".HostConfig.Memory of type int64"),
    ({"BlkioWeight": 70000}, "invalid JSON: json: cannot unmarshal number 70000 into Go struct "
     "field .HostConfig.BlkioWeight of type uint16"),
    ({"Binds": "x"}, "invalid JSON: json: cannot unmarshal string into Go struct field "
     ".HostConfig.Binds of type []string"),
    ({"Devices": [{"PathOnHost": 1}]}, "invalid JSON: json: cannot unmarshal number into Go "
     "struct field .HostConfig.Devices.0.PathOnHost of type string"),
    ({"Memory": 1000}, "Minimum memory limit allowed is 6MB"),
    ({"MemorySwap": 1000}, "You should always set the Memory limit when using Memoryswap limit, "
     "see usage"),
    ({"NanoCpus": 10**15}, "range of CPUs is from 0.01 to "),
    ({"CpuPeriod": 10}, "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s "
     "(i.e. 1000000)"),
    ({"PortBindings": {"x": [{"HostPort": "1"}]}}, 'invalid port specification: "x"'),
    ({"PortBindings": {"1": [{"HostPort": "70000"}]}}, 'invalid port specification: "70000"'),
    ({"RestartPolicy": {"Name": "foo"}}, "invalid restart policy: unknown policy 'foo'; use one "
     "of 'no', 'always', 'on-failure', or 'unless-stopped'"),
    ({"RestartPolicy": {"Name": "always"}, "AutoRemove": True},
     "can't create 'AutoRemove' container with restart policy"),
    ({"CapAdd": ["foo"]}, 'invalid CapAdd: unknown capability: "CAP_FOO"'),
    ({"ExtraHosts": ["x"]}, 'bad format for add-host: "x"'),
    ({"ExtraHosts": ["x:y"]}, 'invalid IP address in add-host: "y"'),
    ({"IpcMode": "x"}, "invalid IPC mode: x"),
    ({"PidMode": "container:"}, "invalid PID mode: container:"),
    ({"NetworkMode": "container:a", "Dns": ["1.1.1.1"]},
     "conflicting options: dns and the network mode"),
    ({"Binds": ["a:b:c:d"]}, "invalid volume specification: 'a:b:c:d'"),
    ({"Binds": ["a"]}, "invalid volume specification: 'a': invalid mount config for type "
     "\"volume\": invalid mount path: 'a' mount path must be absolute"),
    ({"Binds": ["/a:/b:ro,rw"]}, "invalid mode: ro,rw"),
    ({"Mounts": [{"Type": "bind"}]},
     'invalid mount config for type "bind": field Target must not be empty'),
    ({"Mounts": [{"Type": "bind", "Target": "/x"}]},
     'invalid mount config for type "bind": field Source must not be empty'),
    ({"Mounts": [{"Type": "foo", "Target": "/x"}]},
     'invalid mount config for type "foo": mount type unknown'),
    ({"Mounts": [{"Type": "bind", "Target": "/x", "Source": "/y", "TmpfsOptions": {}}]},
     'TmpfsOptions must not be specified on mount type "bind"'),
    ({"Tmpfs": {"x": ""}}, "invalid mount path: 'x' mount path must be absolute"),
    ({"Sysctls": {"net.ipv4.conf.eth0.forwarding": "1"}}, "interface specific sysctl setting "
     '"net.ipv4.conf.eth0.forwarding" must be supplied using driver option '
     "'com.docker.network.endpoint.sysctls'"),
]  # fmt: skip


@pytest.mark.parametrize(("host", "text"), HOST_ERRORS, ids=str)
def test_host_config_errors(host: dict[str, Any], text: str) -> None:
    with pytest.raises(EngineError) as caught:
        create({"HostConfig": host})
    assert str(caught.value).startswith(text)


CONFIG_ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"Image": 5}, "invalid JSON: json: cannot unmarshal number into Go struct field .Image of "
     "type string"),
    ({"Labels": {"a": 1}}, "invalid JSON: json: cannot unmarshal number into Go struct field "
     ".Labels.a of type string"),
    ({"ExposedPorts": []}, "invalid JSON: json: cannot unmarshal array into Go struct field "
     ".ExposedPorts of type nat.PortSet"),
    ({"WorkingDir": "rel"}, "the working directory 'rel' is invalid, it needs to be an absolute "
     "path"),
    ({"StopSignal": "FOO"}, "invalid signal: FOO"),
    ({"Env": ["=x"]}, "invalid environment variable: =x"),
    # Each of these would be a line of its own in a file of the container's.
    ({"Hostname": "a\n1.1.1.1 b"}, "invalid hostname: control characters are not allowed"),
    ({"Domainname": "a\n1.1.1.1 b"}, "invalid domain name: control characters are not allowed"),
    ({"HostConfig": {"ExtraHosts": ["a\n1.1.1.1 b:2.2.2.2"]}},
     "invalid name in add-host: control characters are not allowed"),
    ({"HostConfig": {"DnsSearch": ["a\nnameserver 1.1.1.1"]}},
     "invalid dns search domain or option: control characters are not allowed"),
    ({"HostConfig": {"DnsOptions": ["a\nnameserver 1.1.1.1"]}},
     "invalid dns search domain or option: control characters are not allowed"),
    ({"HostConfig": {"Links": ["a:b\n1.1.1.1 c"]}},
     "invalid link: control characters are not allowed"),
    ({"Healthcheck": {"Interval": 1}}, "Interval in Healthcheck cannot be less than 1ms"),
    ({"NetworkingConfig": {"EndpointsConfig": {"x": {"Aliases": 1}}}}, "invalid JSON: json: "
     "cannot unmarshal number into Go struct field .NetworkingConfig.EndpointsConfig.x.Aliases "
     "of type []string"),
    ({"NetworkingConfig": {"EndpointsConfig": {"bridge": {
        "IPAMConfig": {"IPv4Address": "::1"}, "Aliases": ["a"]}}}},
     "invalid config for network bridge: invalid endpoint settings:\n"
     "* user specified IP address is supported on user defined networks only\n"
     "* user specified IP address is supported only when connecting to networks with user "
     "configured subnets\n"
     "* network-scoped alias is supported only for containers in user defined networks\n"
     "* invalid IPv4 address: ::1"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "text"), CONFIG_ERRORS, ids=str)
def test_config_errors(body: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        create(body)
    assert str(caught.value) == text


@pytest.mark.parametrize("name", ["-bad", "a", "a b", "a/b"])
def test_bad_names(name: str) -> None:
    with pytest.raises(InvalidArgument, match=r"Invalid container name \(.*\), only \[a-zA-Z0-9\]"):
        create({}, name)
