"""Test support: what Docker Engine and this engine answer to the same requests, one after another.

A scene makes containers and then asks: each answer is its status, content type and body, without
ids, times, addresses and what else is the machine's. Requests with ``versions`` are asked in each
of them, and what older ones get is kept as the difference from the newest. Docker's answers are in
tests/compat/recorded/answers.json:

    python -m tests.scenes unix:///path/of/docker.sock
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.comparison import compact, expand
from tests.engine import BUSYBOX, Engine, fresh_name

RECORDED = Path(__file__).parent / "compat" / "recorded" / "answers.json"
NEWEST = "1.51"
VERSIONS = ("1.24", "1.40", "1.43", "1.44", "1.47")

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. ``{c}`` and other names of the scene's containers stand for theirs; ``{since}``
    for a time before the scene. With ``kinds`` only the types of values count."""

    method: str
    target: str
    body: Any = None
    versions: tuple[str, ...] = ()
    kinds: bool = False
    unordered: bool = False
    only: str = ""  # of a list's objects this field alone
    hidden: tuple[str, ...] = ()  # further names of fields whose values are the machine's

    @property
    def name(self) -> str:
        return f"{self.method} {self.target}" + (f" {json.dumps(self.body)}" if self.body else "")


@dataclass(frozen=True, slots=True)
class Scene:
    name: str
    asks: tuple[Ask, ...]
    containers: dict[str, Json] = field(default_factory=dict)
    started: bool = True


_TIME = re.compile(r"(?!0001)\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_STATUS = re.compile(r"\b(About a minute|Less than a second|\d+ seconds?|About an hour)\b")
_HEX = re.compile(r"\b(sha256:)?[0-9a-f]{64}\b")
_VOLATILE = frozenset(
    (
        *(
            "Created",
            "time",
            "timeNano",
            "Pid",
            "SizeRootFs",
            "SizeRw",
            "execDuration",
            "GraphDriver",
        ),
        *("NetworkID", "EndpointID", "IPAddress", "IPPrefixLen", "Gateway", "MacAddress"),
        *("SandboxID", "SandboxKey", "LogPath", "ResolvConfPath", "HostnamePath", "HostsPath"),
        *("DNSNames", "Subnet", "Mountpoint"),
    )
)


def perform(engine: Engine, scene: Scene) -> Json:
    """The answers of ``scene`` by the requests' names."""
    names = {key: fresh_name() for key in scene.containers}
    ids: dict[str, str] = {}
    words: Json = {**names, "since": time.time_ns() // 10**9, "image": BUSYBOX}
    try:
        for key, change in scene.containers.items():
            body = {"Image": BUSYBOX, "Cmd": ["sleep", "1000"], "StopSignal": "SIGKILL", **change}
            body = json.loads(_filled(json.dumps(body), words))
            made = engine.api("POST", f"/containers/create?name={names[key]}", body)
            assert made.status == 201, made.body
            ids[key] = made.json()["Id"]
            words[f"{key}_id"] = ids[key]
            if scene.started:
                begun = engine.api("POST", f"/containers/{ids[key]}/start")
                assert begun.status == 204, begun.body
        hide = _Hiding(names, ids)
        return {ask.name: _answers(engine, ask, words, hide) for ask in scene.asks}
    finally:
        for name in names.values():
            engine.api("DELETE", f"/containers/{name}?force=1&v=1")


def _answers(engine: Engine, ask: Ask, words: Json, hide: _Hiding) -> Json:
    answers: Json = {}
    for version in (NEWEST, *ask.versions):
        target = _filled(ask.target, {**words, "until": f"{time.time():.9f}"})
        body = json.loads(_filled(json.dumps(ask.body), words)) if ask.body is not None else None
        answer = engine.api(ask.method, f"/v{version}{target}", body)
        for found in re.findall(rb'^{"Id":"([0-9a-f]{64})"}', answer.body):
            words["made"] = found.decode()
        content = hide.content(answer, ask)
        answers[version] = {
            ".status": answer.status,
            ".type": answer.headers.get("content-type"),
            **dict(_leaves(content, ".body")),
        }
    return answers


def _filled(text: str, words: Json) -> str:
    for key, value in words.items():
        text = text.replace("{" + key + "}", str(value))
    return text


@dataclass(frozen=True, slots=True)
class _Hiding:
    names: dict[str, str]
    ids: dict[str, str]

    def content(self, answer: Any, ask: Ask) -> Any:
        text = answer.body.decode(errors="replace")
        for key, name in self.names.items():
            text = text.replace(name, f"<{key}>")
        for key, container in self.ids.items():
            text = text.replace(container, f"<id of {key}>")
            text = text.replace(container[:12], f"<short id of {key}>")
        if "json" not in answer.headers.get("content-type", "json"):
            return self._text(text)
        lines = text.splitlines()
        try:
            values = [json.loads(line) for line in lines]
        except json.JSONDecodeError:
            return self._text(text)
        value: Any = values[0] if len(values) == 1 and not ask.unordered else values
        if ask.only and isinstance(value, list):
            value = [item[ask.only] for item in value]
        return kinds(value, ask.hidden) if ask.kinds else self._value(value, "", ask)

    def _value(self, value: Any, name: str, ask: Ask) -> Any:
        if name in _VOLATILE or name in ask.hidden:
            return f"<{type(value).__name__}>"
        if isinstance(value, dict):
            if value.get("Type") == "volume" and value.get("Source"):
                value = {**value, "Source": "<place>"}
            return {key: self._value(item, key, ask) for key, item in value.items()}
        if isinstance(value, list):
            found = [self._value(item, "", ask) for item in value]
            sort = ask.unordered or name in ("Mounts", "Ports")
            return sorted(found, key=json.dumps) if sort else found
        return self._text(value) if isinstance(value, str) else value

    def _text(self, text: str) -> str:
        return _HEX.sub("<hex>", _STATUS.sub("<while>", _TIME.sub("<time>", text)))


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every leaf by its path; empty objects and lists are leaves."""
    if isinstance(value, (dict, list)) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from _leaves(item, f"{path}.{key}")
    else:
        yield path, value


def kinds(value: Any, hidden: tuple[str, ...] = ()) -> Any:
    """Names of types in the place of values; of a list the first item's."""
    if isinstance(value, dict):
        return {key: kinds(item, hidden) for key, item in value.items() if key not in hidden}
    if isinstance(value, list):
        return [kinds(item, hidden) for item in value[:1]]
    return type(value).__name__


def leaner(answers: Json) -> Json:
    """Older versions' answers as what differs from the newest's."""
    newest = answers[NEWEST]
    return {
        version: answer if version == NEWEST else compact(answer, newest)
        for version, answer in answers.items()
    }


def fuller(answers: Json) -> Json:
    newest = answers[NEWEST]
    return {
        version: answer if version == NEWEST else expand(answer, newest)
        for version, answer in answers.items()
    }


def recorded() -> Json:
    scenes: Json = json.loads(RECORDED.read_text())
    return {
        scene: {name: fuller(answers) for name, answers in asked.items()}
        for scene, asked in scenes.items()
    }


def lines(scenes: Json) -> Iterator[str]:
    """One line for each answer, so that a difference is a line."""
    for number, (scene, asked) in enumerate(scenes.items()):
        yield ("{" if number == 0 else ",") + f"{json.dumps(scene)}: {{"
        answers = [f"{json.dumps(name)}: {json.dumps(leaner(a))}" for name, a in asked.items()]
        yield ",\n".join(answers)
        yield "}"
    yield "}"


def main() -> None:
    from tests.compat.answer_questions import SCENES

    with tempfile.TemporaryDirectory() as scratch:
        engine = Engine(Path(sys.argv[1].removeprefix("unix://")), Path(scratch))
        engine.load_busybox()
        found = {scene.name: perform(engine, scene) for scene in SCENES}
        engine.api("DELETE", f"/images/{BUSYBOX}")
    RECORDED.write_text("\n".join(lines(found)) + "\n")


if __name__ == "__main__":
    main()
