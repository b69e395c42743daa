"""Bodies of networks, volumes, events and /info; answers recorded from dockerd 28.5."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from common.errors import InvalidArgument
from compat_api import events, host, networks, system, volumes
from compat_api.container_fields import ENDPOINT
from lifecycle._pb import networks_pb2 as pb
from lifecycle._pb import system_pb2

NETWORK_ID = "9adf7b0451450de84cabaac1384b51ce8b4c8d258064dd609a8dc29c82d8ec35"


def test_network_body_has_dockers_fields_in_their_order() -> None:
    network = pb.Network(
        id=NETWORK_ID,
        name="lsn2",
        created=1795239764_461324220,
        scope="local",
        driver="bridge",
        enable_ipv4=True,
        ipam_driver="default",
        ipam_options={"x": "y"},
        ipam=[
            pb.IpamConfig(
                subnet="10.88.0.0/16",
                ip_range="10.88.5.0/24",
                gateway="10.88.5.254",
                auxiliary={"a": "10.88.5.1"},
            )
        ],
    )
    assert orjson.dumps(networks.render(network)).decode() == (
        '{"Name":"lsn2","Id":"9adf7b0451450de84cabaac1384b51ce8b4c8d258064dd609a8dc29c82d8ec35",'
        '"Created":"2026-11-21T05:42:44.46132422Z","Scope":"local","Driver":"bridge",'
        '"EnableIPv4":true,"EnableIPv6":false,"IPAM":{"Driver":"default","Options":{"x":"y"},'
        '"Config":[{"Subnet":"10.88.0.0/16","IPRange":"10.88.5.0/24","Gateway":"10.88.5.254",'
        '"AuxiliaryAddresses":{"a":"10.88.5.1"}}]},"Internal":false,"Attachable":false,'
        '"Ingress":false,"ConfigFrom":{"Network":""},"ConfigOnly":false,"Containers":{},'
        '"Options":{},"Labels":{}}'
    )


def test_network_without_pools_and_with_members() -> None:
    member = pb.NetworkMember(
        container_id="c" * 64,
        container_name="web",
        endpoint_id="e" * 64,
        mac_address="02:42:ac:11:00:02",
        ipv4_address="172.17.0.2/16",
    )
    network = pb.Network(name="host", driver="host", ipam_driver="default", members=[member])
    body = networks.render(network)
    assert body["IPAM"] == {"Driver": "default", "Options": None, "Config": None}
    assert body["Containers"] == {
        "c" * 64: {
            "Name": "web",
            "EndpointID": "e" * 64,
            "MacAddress": "02:42:ac:11:00:02",
            "IPv4Address": "172.17.0.2/16",
            "IPv6Address": "",
        }
    }
    assert networks.render(network, members=False)["Containers"] == {}


def test_network_create_body() -> None:
    message = pb.CreateNetworkRequest()
    body: dict[str, Any] = {
        "Name": "n",
        "CheckDuplicate": True,
        "Driver": "bridge",
        "EnableIPv4": False,
        "EnableIPv6": True,
        "IPAM": {
            "Driver": "default",
            "Options": None,
            "Config": [{"Subnet": "10.0.0.0/8", "AuxiliaryAddresses": {"a": "10.0.0.9"}}, None],
        },
        "Internal": True,
        "ConfigFrom": {"Network": "template"},
        "Options": {"com.docker.network.driver.mtu": "1400"},
        "Labels": {"a": "b"},
    }
    networks.CREATE.parse(body, message, "CreateRequest")
    assert message == pb.CreateNetworkRequest(
        name="n",
        driver="bridge",
        enable_ipv4=False,
        enable_ipv6=True,
        ipam_driver="default",
        ipam=[pb.IpamConfig(subnet="10.0.0.0/8", auxiliary={"a": "10.0.0.9"})],
        internal=True,
        config_from="template",
        options={"com.docker.network.driver.mtu": "1400"},
        labels={"a": "b"},
    )
    without = pb.CreateNetworkRequest()
    networks.CREATE.parse({"Name": "n"}, without, "CreateRequest")
    assert not without.HasField("enable_ipv4")


def test_connect_body_is_a_containers_endpoint() -> None:
    message = pb.ConnectRequest()
    settings = {"Aliases": ["db"], "IPAMConfig": {"IPv4Address": "10.0.0.5"}, "GwPriority": 3}
    body = {"Container": "web", "EndpointConfig": settings}
    networks.CONNECT.parse(body, message, "ConnectOptions")
    assert message.container == "web"
    assert list(message.settings.aliases.values) == ["db"]
    assert message.settings.ipv4_request == "10.0.0.5"
    assert ENDPOINT.render(message.settings)["IPAMConfig"] == {"IPv4Address": "10.0.0.5"}
    with pytest.raises(InvalidArgument):
        networks.CONNECT.parse({"Container": 5}, message, "ConnectOptions")


def test_volume_body() -> None:
    volume = pb.Volume(
        name="v", driver="local", mountpoint="/v/_data", created=1795239766_999999999
    )
    assert orjson.dumps(volumes.render(volume)).decode() == (
        '{"CreatedAt":"2026-11-21T05:42:46Z","Driver":"local","Labels":null,'
        '"Mountpoint":"/v/_data","Name":"v","Options":null,"Scope":"local"}'
    )
    volume.has_options = True
    volume.labels["a"] = "b"
    assert volumes.render(volume)["Options"] == {}
    assert volumes.render(volume)["Labels"] == {"a": "b"}


def test_volume_create_body() -> None:
    message = pb.CreateVolumeRequest()
    body = {"Name": "v", "Driver": "local", "DriverOpts": {"o": "size=1m"}, "Labels": None}
    volumes.CREATE.parse(body, message, "CreateOptions")
    assert message == pb.CreateVolumeRequest(
        name="v", driver="local", options={"o": "size=1m"}, has_options=True
    )


def test_container_event_has_the_fields_of_old_clients() -> None:
    event = system_pb2.Event(
        type="container",
        action="die",
        actor_id="04cf",
        attributes={"name": "lsev", "image": "busybox", "exitCode": "0"},
        time=1795240705_221736426,
    )
    assert orjson.dumps(events.body(event)).decode() == (
        '{"status":"die","id":"04cf","from":"busybox","Type":"container","Action":"die",'
        '"Actor":{"ID":"04cf","Attributes":{"exitCode":"0","image":"busybox","name":"lsev"}},'
        '"scope":"local","time":1795240705,"timeNano":1795240705221736426}'
    )


def test_other_events() -> None:
    image = system_pb2.Event(type="image", action="tag", actor_id="sha256:6", time=1)
    assert list(events.body(image)) == [
        *("status", "id", "Type", "Action", "Actor", "scope", "time", "timeNano")
    ]
    volume = system_pb2.Event(type="volume", action="create", actor_id="v", time=1)
    assert list(events.body(volume)) == ["Type", "Action", "Actor", "scope", "time", "timeNano"]


def test_version_has_what_clients_read() -> None:
    body = system.version_body()
    details = body["Components"][0]["Details"]
    for key in ("ApiVersion", "MinAPIVersion", "GitCommit", "GoVersion", "Os", "Arch", "BuildTime"):
        assert body[key] == details[key]
    assert body["ApiVersion"] == "1.51"
    assert details["Experimental"] == "false"


async def test_info_has_what_clients_read() -> None:
    info = system_pb2.Info(
        id="x",
        containers_running=1,
        containers_paused=2,
        containers_stopped=3,
        storage_status={"b": "2", "a": "1"},
        cgroup_version="1",
        runtimes=[system_pb2.Runtime(name="runc"), system_pb2.Runtime(name="crun", path="/c")],
        insecure_registries=["127.0.0.0/8", "10.0.0.0/8", "reg:5000"],
        registry_mirrors=["http://m/"],
    )
    body = system.info_body(info)
    assert body["Containers"] == 6
    assert body["DriverStatus"] == [["a", "1"], ["b", "2"]]
    assert body["CgroupVersion"] == "1"
    assert body["Runtimes"] == {"runc": {"path": ""}, "crun": {"path": "/c"}}
    assert body["Swarm"]["LocalNodeState"] == "inactive"
    assert body["Warnings"] is None
    assert body["RegistryConfig"] == {
        "IndexConfigs": {
            "docker.io": {
                "Mirrors": ["http://m/"],
                "Name": "docker.io",
                "Official": True,
                "Secure": True,
            },
            "reg:5000": {"Mirrors": [], "Name": "reg:5000", "Official": False, "Secure": False},
        },
        "InsecureRegistryCIDRs": ["::1/128", "127.0.0.0/8", "10.0.0.0/8"],
        "Mirrors": ["http://m/"],
    }
    assert body["NCPU"] > 0
    assert body["MemTotal"] > 1 << 20


def test_os_release() -> None:
    text = '# no\nPRETTY_NAME="Some Linux 1"\nVERSION_ID=\'1\'\nBROKEN="x\nID=some\n'
    found = host.parse_os_release(text)
    assert found == {"PRETTY_NAME": "Some Linux 1", "VERSION_ID": "1", "ID": "some"}


def test_proxy_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://user:secret@proxy:3128/")
    assert host.proxy("HTTP_PROXY") == "http://xxxxx:xxxxx@proxy:3128/"
