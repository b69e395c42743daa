"""longshored: images as Docker's JSON: list, inspect, history, removal; pure functions.

An image's configuration is the JSON that came with it; what Docker takes from it is taken here.
"""

from __future__ import annotations

from typing import Any

import orjson

from common.errors import InvalidArgument
from common.times import parse_timestamp, rfc3339_nano
from lifecycle._pb import images_pb2 as pb

_ALWAYS: dict[str, Any] = {
    "Cmd": None,
    "Entrypoint": None,
    "Env": None,
    "Labels": None,
    "OnBuild": None,
    "User": "",
    "Volumes": None,
    "WorkingDir": "",
}
_IF_SET = ("ArgsEscaped", "ExposedPorts", "Healthcheck", "Shell", "StopSignal")
_MISSING = "<missing>"


def summary(image: pb.Image) -> dict[str, Any]:
    """An element of GET /images/json."""
    return {
        "Containers": image.containers,
        "Created": image.created // 1_000_000_000,
        "Id": image.id,
        "Labels": _config(_parsed(image)).get("Labels"),
        "ParentId": image.parent,
        "RepoDigests": list(image.digests),
        "RepoTags": list(image.tags),
        "SharedSize": image.shared_size,
        "Size": image.size,
    }


def inspect(image: pb.Image) -> dict[str, Any]:
    parsed = _parsed(image)
    result: dict[str, Any] = {
        "Id": image.id,
        "RepoTags": list(image.tags),
        "RepoDigests": list(image.digests),
        "Parent": image.parent,
        "Comment": image.comment,
    }
    if image.created:
        result["Created"] = rfc3339_nano(image.created)
    result |= {
        "DockerVersion": parsed.get("docker_version") or "",
        "Author": parsed.get("author") or "",
        "Architecture": parsed.get("architecture") or "",
    }
    if parsed.get("variant"):
        result["Variant"] = parsed["variant"]
    result["Os"] = parsed.get("os") or ""
    if parsed.get("os.version"):
        result["OsVersion"] = parsed["os.version"]
    result |= {
        "Size": image.size,
        "GraphDriver": {"Data": dict(sorted(image.snapshot.items())) or None, "Name": image.driver},
        "RootFS": {"Type": "layers", **({"Layers": list(image.layers)} if image.layers else {})},
        "Metadata": {"LastTagTime": rfc3339_nano(image.last_tagged)},
        "Config": inspect_config(_config(parsed)),
    }
    return result


def inspect_config(config: dict[str, Any]) -> dict[str, Any]:
    """The fields of a configuration that concern containers, in the order of their names."""
    result = {key: config.get(key) or default for key, default in _ALWAYS.items()}
    result.update((key, config[key]) for key in _IF_SET if config.get(key))
    for key in ("Cmd", "Entrypoint", "Env"):
        result[key] = config.get(key)  # [] is not null here
    return dict(sorted(result.items()))


def history(image: pb.Image) -> list[dict[str, Any]]:
    """Newest first; only the newest entry is an image that can be named."""
    sizes = [layer.size for layer in image.history_sizes]
    rows = []
    layer = 0
    for entry in _parsed(image).get("history") or ():
        size = 0
        if not entry.get("empty_layer") and layer < len(sizes):
            size = sizes[layer]
            layer += 1
        rows.append(
            {
                "Comment": entry.get("comment") or "",
                "Created": unix_seconds(entry.get("created")),
                "CreatedBy": entry.get("created_by") or "",
                "Id": _MISSING,
                "Size": size,
                "Tags": None,
            }
        )
    if rows:
        rows[-1] |= {"Id": image.id, "Tags": list(image.tags) or None}
    rows.reverse()
    return rows


def unix_seconds(text: str | None) -> int:
    """Seconds of an RFC 3339 time; 0 where the image does not say or says nonsense."""
    if not text:
        return 0
    try:
        return parse_timestamp(text) // 1_000_000_000
    except InvalidArgument:
        return 0


def removed(reply: pb.RemoveImageReply) -> list[dict[str, str]]:
    return [
        {"Untagged": item.untagged} if item.untagged else {"Deleted": item.deleted}
        for item in reply.removed
    ]


def remote(image: pb.RemoteImage) -> dict[str, Any]:
    """GET /distribution/{name}/json."""
    return {
        "Descriptor": {
            "mediaType": image.media_type,
            "digest": image.digest,
            "size": image.size,
        },
        "Platforms": [platform(text) for text in image.platforms],
    }


def platform(text: str) -> dict[str, str]:
    """``os/arch[/variant]`` as the object in which clients get it."""
    system, _, rest = text.partition("/")
    architecture, _, variant = rest.partition("/")
    result = {"architecture": architecture, "os": system}
    if variant:
        result["variant"] = variant
    return result


def _parsed(image: pb.Image) -> dict[str, Any]:
    parsed: dict[str, Any] = orjson.loads(image.config) if image.config else {}
    return parsed


def _config(parsed: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = parsed.get("config") or {}
    return config
