"""Test support: the same questions to Docker Engine and to this engine, and their answers.

A question is the body of a create, then a start, an update or a stop; its answer is what the client
is told and what inspect shows, without ids, times, paths and addresses. Docker's answers are kept
in tests/compat/recorded, each as its difference from the first one, so that the file stays small:

    python -m tests.comparison unix:///path/of/docker.sock

asks a Docker Engine again. Answers depend on the kernel: record where the tests run.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.engine import BUSYBOX, Engine, fresh_name

RECORDED = Path(__file__).parent / "compat" / "recorded" / "inspect.json"
BASE = "nothing given"
OUR_MAC = "02:42:ac:11:00:9"  # of the addresses that questions ask for

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Question:
    name: str
    host: Json = field(default_factory=dict)
    config: Json = field(default_factory=dict)
    networking: Json = field(default_factory=dict)
    query: str = ""
    start: bool = False
    stop: bool = False
    update: Json = field(default_factory=dict)
    version: str = "1.51"


# What depends on the machine or the moment, by its last names.
_VOLATILE = frozenset(
    (
        *("Id", "Created", "Name", "Image", "GraphDriver", "ResolvConfPath", "HostnamePath"),
        *("HostsPath", "LogPath", "SandboxID", "SandboxKey", "Pid", "StartedAt", "FinishedAt"),
        *("NetworkID", "EndpointID", "IPAddress", "IPPrefixLen", "Gateway", "DNSNames"),
    )
)
_UNORDERED = frozenset(("Env", "Mounts"))


def ask(engine: Engine, question: Question) -> Json:
    """``told`` is what the client hears, ``shown`` what inspect has, None if nothing was made."""
    name = fresh_name()
    body = {
        "Image": BUSYBOX,
        "Cmd": ["sleep", "1000"],
        "StopSignal": "SIGKILL",
        **question.config,
        "HostConfig": question.host,
        "NetworkingConfig": question.networking,
    }
    target = f"/v{question.version}/containers/create?name={name}&{question.query}"
    answer = engine.api("POST", target, body)
    told: list[Any] = []
    if answer.status != 201:
        return {"told": [_heard(answer, name)], "shown": None}
    container = answer.json()["Id"]
    told.append(answer.json()["Warnings"])
    try:
        for wanted, path, request in (
            (question.start, "start", None),
            (bool(question.update), "update", question.update),
            (question.stop, "stop", None),
        ):
            if wanted:
                heard = engine.api("POST", f"/v1.51/containers/{container}/{path}", request)
                told.append(_heard(heard, name, container))
        shown = engine.api("GET", f"/v1.51/containers/{container}/json").json()
        return {"told": told, "shown": flat(_without_ids(shown, name, container))}
    finally:
        engine.api("DELETE", f"/containers/{container}?force=1&v=1")


def _heard(answer: Any, name: str, container: str = "") -> Any:
    said = answer.json() if answer.body else None
    return _without_ids([answer.status, said], name, container)


def _without_ids(value: Any, name: str, container: str) -> Any:
    text = json.dumps(value).replace(name, "<name>")
    if container:
        text = text.replace(container, "<id>").replace(container[:12], "<short id>")
    return json.loads(text)


def flat(value: Any, path: str = "") -> Json:
    """Every leaf by its path; empty objects are leaves."""
    last = path.rpartition(".")[2]
    if last in _VOLATILE:
        return {}
    if last == "MacAddress" and value and not value.startswith(OUR_MAC):
        return {path: "<generated>"}
    if isinstance(value, dict) and value and last != "Labels":
        found: Json = {}
        for key, item in value.items():
            found |= flat(item, f"{path}.{key}")
        return found
    if last == "Mounts" and isinstance(value, list):
        value = [_mount(item) for item in value]
    if last in _UNORDERED and isinstance(value, list):
        value = sorted(value, key=json.dumps)
    return {path: value}


def _mount(mount: Any) -> Any:
    """A volume's place, and an anonymous one's name, are the engine's own."""
    if not isinstance(mount, dict) or mount.get("Type") != "volume":
        return mount
    anonymous = len(mount.get("Name", "")) == 64
    hidden = {"Source", "Name"} if anonymous else {"Source"}
    return {key: item for key, item in mount.items() if key not in hidden}


def compact(shown: Json, base: Json) -> Json:
    """What differs from ``base``; a field that ``base`` has and this has not is listed apart."""
    changed = {path: value for path, value in shown.items() if base.get(path, _NONE) != value}
    gone = [path for path in base if path not in shown]
    return changed | ({"-": gone} if gone else {})


def expand(changed: Json, base: Json) -> Json:
    gone = changed.get("-", ())
    shown = {path: value for path, value in base.items() if path not in gone}
    return shown | {path: value for path, value in changed.items() if path != "-"}


_NONE = object()


def record(engine: Engine, questions: list[Question]) -> Json:
    base: Json = {}
    answers: Json = {}
    for question in questions:
        answer = ask(engine, question)
        answers[question.name] = answer
        if question.name == BASE:
            base = dict(answer["shown"])
        elif answer["shown"] is not None:
            answer["shown"] = compact(answer["shown"], base)
    return answers


def recorded() -> Json:
    answers: Json = json.loads(RECORDED.read_text())
    base = answers[BASE]["shown"]
    for name, answer in answers.items():
        if name != BASE and answer["shown"] is not None:
            answer["shown"] = expand(answer["shown"], base)
    return answers


def main() -> None:
    from tests.compat.inspect_questions import QUESTIONS

    with tempfile.TemporaryDirectory() as scratch:
        engine = Engine(Path(sys.argv[1].removeprefix("unix://")), Path(scratch))
        engine.load_busybox()
        answers = record(engine, QUESTIONS)
        engine.api("DELETE", f"/images/{BUSYBOX}")
    lines = [f"{json.dumps(name)}: {json.dumps(answer)}" for name, answer in answers.items()]
    RECORDED.parent.mkdir(exist_ok=True)
    RECORDED.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
