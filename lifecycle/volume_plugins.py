"""Library of lifecycle: a volume driver that is a plugin, by Docker's volume plugin protocol.

https://docs.docker.com/engine/extend/plugins_volume/ is the protocol. A volume's files are where
the plugin says when it mounts it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import EngineError, NotFound
from common.times import parse_timestamp
from lifecycle.plugins import Plugin, Plugins

INTERFACE = "VolumeDriver"


@dataclass(frozen=True, slots=True)
class PluginVolume:
    """What a plugin says of one of its volumes."""

    name: str
    mountpoint: str = ""
    created: int = 0  # ns since 1970; 0: it does not say
    status: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, found: Mapping[str, Any]) -> PluginVolume:
        try:
            created = parse_timestamp(str(found.get("CreatedAt") or 0))
        except EngineError:
            created = 0
        status = found.get("Status")
        return cls(
            str(found.get("Name") or ""),
            str(found.get("Mountpoint") or ""),
            created,
            status if isinstance(status, dict) else {},
        )


class PluginDriver:
    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin

    @property
    def name(self) -> str:
        return self._plugin.name

    async def create(self, name: str, options: Mapping[str, str]) -> None:
        await self._call("Create", Name=name, Opts=dict(options))

    async def remove(self, name: str) -> None:
        await self._call("Remove", Name=name)

    async def mount(self, name: str, user: str) -> Path:
        answer = await self._call("Mount", Name=name, ID=user)
        return Path(str(answer.get("Mountpoint") or ""))

    async def unmount(self, name: str, user: str) -> None:
        await self._call("Unmount", Name=name, ID=user)

    async def get(self, name: str) -> PluginVolume | None:
        """None if it has no such volume."""
        try:
            found = (await self._call("Get", Name=name)).get("Volume")
        except EngineError:
            return None
        return PluginVolume.parse({"Name": name, **found}) if isinstance(found, dict) else None

    async def list_all(self) -> list[PluginVolume]:
        found = (await self._call("List")).get("Volumes") or []
        return [PluginVolume.parse(item) for item in found if isinstance(item, dict)]

    async def scope(self) -> str:
        """ "local" or "global"; what the plugin does not say is local."""
        try:
            found = (await self._call("Capabilities")).get("Capabilities") or {}
        except EngineError:
            return "local"  # an older version of the protocol
        return "global" if found.get("Scope") == "global" else "local"

    async def _call(self, method: str, **body: Any) -> dict[str, Any]:
        return await self._plugin.call(f"{INTERFACE}.{method}", body)


async def find(plugins: Plugins, name: str) -> PluginDriver:
    try:
        return PluginDriver(await plugins.get(name, INTERFACE))
    except NotFound as error:
        raise NotFound(f"error looking up volume plugin {name}: {error}") from error


async def find_all(plugins: Plugins) -> list[PluginDriver]:
    return [PluginDriver(plugin) for plugin in await plugins.all(INTERFACE)]
