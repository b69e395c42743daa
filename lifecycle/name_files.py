"""Library of lifecycle: writes what containers are called, for the resolvers in their shims.

The files are common/namefiles.py's; NetworkService (networks.py) calls this with each endpoint that
comes or goes. A name may be several containers' (an alias), and then its file has all their
addresses. At start everything is written anew and what is left over from before is removed.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from common import namefiles
from lifecycle.network_records import EndpointRecord, NetworkRecord


class NameFiles:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        # network id, file → endpoint id → lines
        self._known: dict[tuple[str, str], dict[str, tuple[str, ...]]] = {}

    def directory(self, network_id: str) -> Path:
        return self._directory / network_id

    def sync(self, networks: Iterable[NetworkRecord], endpoints: Iterable[EndpointRecord]) -> None:
        self._known.clear()
        wanted = {record.id for record in networks if record.user_defined}
        for network_id in wanted:
            self.add_network(network_id)
        for record in endpoints:
            for file, lines in _files(record):
                key = (record.network_id, file)
                self._known.setdefault(key, {})[record.id] = lines
        for found in self._directory.iterdir():
            if found.name not in wanted:
                shutil.rmtree(found, ignore_errors=True)
                continue
            for stale in found.iterdir():
                if (found.name, stale.name) not in self._known:
                    stale.unlink()
        for key in self._known:
            self._write(key)

    def add_network(self, network_id: str) -> None:
        self.directory(network_id).mkdir(mode=0o700, parents=True, exist_ok=True)

    def remove_network(self, network_id: str) -> None:
        shutil.rmtree(self.directory(network_id), ignore_errors=True)

    def add(self, record: EndpointRecord) -> None:
        for file, lines in _files(record):
            self._known.setdefault((record.network_id, file), {})[record.id] = lines
            self._write((record.network_id, file))

    def remove(self, record: EndpointRecord) -> None:
        for file, _ in _files(record):
            key = (record.network_id, file)
            holders = self._known.get(key)
            if holders is None or holders.pop(record.id, None) is None:
                continue
            self._write(key)
            if not holders:
                del self._known[key]

    def _write(self, key: tuple[str, str]) -> None:
        network_id, file = key
        lines = dict.fromkeys(line for each in self._known[key].values() for line in each)
        namefiles.write(self.directory(network_id), file, list(lines))


def _files(record: EndpointRecord) -> list[tuple[str, tuple[str, ...]]]:
    """None for a network whose containers have no names, which is the default bridge."""
    if not record.dns_names:
        return []
    encoded = (namefiles.encode(name.encode()) for name in record.dns_names)
    names = [(file, record.addresses) for file in dict.fromkeys(encoded) if file]
    pointers = [(f"ptr:{address}", (record.container_name,)) for address in record.addresses]
    return names + pointers
