"""Test support: a network and IPAM plugin of Docker's protocol v1, as a process of its own.

``python -m tests.network_plugin <socket> <directory>``: a network is a bridge of the host, an
endpoint a veth pair of which the engine gets one side, and an address the next one of its pool. It
writes every call to ``calls`` in the directory, one JSON object a line, and what it holds to
``held``, so that it can be killed and started again. A file ``say-<method>`` has the answer to give
instead, and with ``hold-<method>`` it does its work and answers when that file is gone.
"""

from __future__ import annotations

import http.server
import json
import os
import socketserver
import sys
import threading
import time
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import Any

from common import netlink
from common.netlink import Netlink

Json = dict[str, Any]
DEFAULT_POOL = "10.213.0.0/24"
DEFAULT_POOL6 = "fd5e:1::/64"


class Refused(Exception):
    pass


class Driver:
    """What it holds: networks, endpoints with the interface of each, sandboxes, pools."""

    def __init__(self, root: Path) -> None:
        self.file = root / "held"
        self.held: Json = {"networks": {}, "endpoints": {}, "joined": {}, "pools": {}}
        if self.file.exists():
            self.held = json.loads(self.file.read_text())

    def save(self) -> None:
        fresh = self.file.with_suffix(".new")
        fresh.write_text(json.dumps(self.held))
        fresh.rename(self.file)

    def answer(self, method: str, request: Json) -> Json:
        if method == "Plugin.Activate":
            return {"Implements": ["NetworkDriver", "IpamDriver"]}
        interface, _, name = method.partition(".")
        handler = getattr(self, ("ipam_" if interface == "IpamDriver" else "") + name, None)
        if handler is None:
            raise LookupError(method)
        answer: Json = handler(request) or {}
        self.save()
        return answer

    # Networks

    def GetCapabilities(self, _request: Json) -> Json:
        return {"Scope": "local", "ConnectivityScope": "local"}

    def CreateNetwork(self, request: Json) -> None:
        if "refuse" in request["Options"]["com.docker.network.generic"]:
            raise Refused("refused as asked")
        bridge = f"tp{request['NetworkID'][:10]}"
        with Netlink() as host:
            host.execute(netlink.bridge(bridge, mac="02:00:00:00:00:01", mtu=1500))
            link = host.link(bridge)
            assert link is not None
            for data in (request.get("IPv4Data") or []) + (request.get("IPv6Data") or []):
                if data.get("Gateway"):
                    host.execute(netlink.add_address(link.index, data["Gateway"]))
            host.execute(netlink.set_up(link.index))
        gateways = [data.get("Gateway", "") for data in request.get("IPv4Data") or []]
        self.held["networks"][request["NetworkID"]] = {
            "bridge": bridge,
            "gateway": gateways[0].partition("/")[0] if gateways else "",
        }

    def DeleteNetwork(self, request: Json) -> None:
        found = self.held["networks"].pop(request["NetworkID"], None)
        if found is None:
            raise Refused("no such network")
        delete(found["bridge"])

    def CreateEndpoint(self, request: Json) -> Json:
        endpoint = request["EndpointID"]
        network = self.held["networks"][request["NetworkID"]]
        mac = "02:fe:" + ":".join(endpoint[i : i + 2] for i in (0, 2, 4, 6))
        answer = {} if request["Interface"].get("MacAddress") else {"MacAddress": mac}
        mac = request["Interface"].get("MacAddress") or mac
        ours, theirs = f"th{endpoint[:10]}", f"tc{endpoint[:10]}"
        with Netlink() as host, open("/proc/self/ns/net") as namespace:
            bridge = host.link(network["bridge"])
            assert bridge is not None
            pair = netlink.veth(
                name=ours,
                peer=theirs,
                peer_namespace=namespace.fileno(),
                peer_mac=mac,
                mtu=1500,
                master=bridge.index,
            )
            host.execute(pair)
        self.held["endpoints"][endpoint] = {"veth": ours, "given": theirs}
        return {"Interface": answer}

    def DeleteEndpoint(self, request: Json) -> None:
        found = self.held["endpoints"].pop(request["EndpointID"], None)
        if found is None:
            raise Refused("no such endpoint")
        delete(found["veth"])

    def EndpointOperInfo(self, _request: Json) -> Json:
        return {"Value": {}}

    def Join(self, request: Json) -> Json:
        endpoint = request["EndpointID"]
        self.held["joined"][endpoint] = request["SandboxKey"]
        return {
            "InterfaceName": {
                "SrcName": self.held["endpoints"][endpoint]["given"],
                "DstPrefix": "plug",
            },
            "Gateway": self.held["networks"][request["NetworkID"]]["gateway"],
            "StaticRoutes": [{"Destination": "10.214.0.0/16", "RouteType": 1}],
        }

    def Leave(self, request: Json) -> None:
        if self.held["joined"].pop(request["EndpointID"], None) is None:
            raise Refused("not joined")

    def ProgramExternalConnectivity(self, _request: Json) -> None:
        pass

    def RevokeExternalConnectivity(self, _request: Json) -> None:
        pass

    # Addresses

    def ipam_GetCapabilities(self, _request: Json) -> Json:
        return {"RequiresMACAddress": False, "RequiresRequestReplay": False}

    def ipam_GetDefaultAddressSpaces(self, _request: Json) -> Json:
        return {"LocalDefaultAddressSpace": "here", "GlobalDefaultAddressSpace": "there"}

    def ipam_RequestPool(self, request: Json) -> Json:
        pool = request["Pool"] or (DEFAULT_POOL6 if request["V6"] else DEFAULT_POOL)
        found = self.held["pools"].setdefault(f"id-{pool}", {"users": 0, "taken": []})
        found["users"] += 1
        return {"PoolID": f"id-{pool}", "Pool": pool, "Data": {}}

    def ipam_ReleasePool(self, request: Json) -> None:
        found = self.held["pools"].get(request["PoolID"])
        if found is None:
            raise Refused("no such pool")
        found["users"] -= 1
        if not found["users"]:
            del self.held["pools"][request["PoolID"]]

    def ipam_RequestAddress(self, request: Json) -> Json:
        network = ip_network(request["PoolID"].removeprefix("id-"))
        taken = self.held["pools"][request["PoolID"]]["taken"]
        # From the upper half, which the engine itself would never begin with.
        wanted = request["Address"]
        number = int(network.network_address) + 100
        while not wanted:
            candidate = str(type(network.network_address)(number))
            wanted = "" if candidate in taken else candidate
            number += 1
        if wanted in taken:
            raise Refused(f"{wanted} is taken")
        taken.append(wanted)
        return {"Address": f"{wanted}/{network.prefixlen}", "Data": {}}

    def ipam_ReleaseAddress(self, request: Json) -> None:
        taken = self.held["pools"][request["PoolID"]]["taken"]
        address = str(ip_interface(request["Address"]).ip)
        if address not in taken:
            raise Refused(f"{address} is free")
        taken.remove(address)


def delete(name: str) -> None:
    with Netlink() as host:
        link = host.link(name)
        if link is None:
            raise Refused(f"{name} is gone")
        host.execute(netlink.delete_link(link.index, name))


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = json.loads(body) if body.strip() else {}
        method, root = self.path.removeprefix("/"), self.server.root
        status, said = 200, root / f"say-{method}"
        with self.server.lock:
            with (root / "calls").open("a") as calls:
                print(json.dumps([method, request]), file=calls)
            try:
                if said.exists():
                    answer = json.loads(said.read_text())
                else:
                    answer = self.server.driver.answer(method, request)
            except LookupError as error:
                status, answer = 404, {"Err": f"no {error}"}
            except Refused as error:
                key = "Error" if method.startswith("IpamDriver") else "Err"
                answer = {key: str(error)}
        while (root / f"hold-{method}").exists():
            time.sleep(0.01)
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.docker.plugins.v1.1+json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        pass


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def __init__(self, path: str, root: Path) -> None:
        self.root = root
        self.driver = Driver(root)
        self.lock = threading.Lock()
        super().__init__(path, Handler)


if __name__ == "__main__":
    if os.path.exists(sys.argv[1]):
        os.unlink(sys.argv[1])
    Server(sys.argv[1], Path(sys.argv[2])).serve_forever()
