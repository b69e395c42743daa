"""Requests that cannot be served: the status and the text that Docker Engine gives, nothing left.

All texts were recorded from Docker Engine 28.5.2.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from typing import Any

import pytest

from tests.engine import BUSYBOX, Engine, OwnEngine, fresh_name

JSON = {"Content-Type": "application/json"}

BODIES: list[tuple[bytes, dict[str, str], str]] = [
    (b"", JSON, "invalid JSON: got EOF while reading request body"),
    (b"{", JSON, "invalid JSON: unexpected EOF"),
    (b"{}", JSON, "config cannot be empty in order to create a container"),
    (b'{"Image":"busybox"} x', JSON, "unexpected content after JSON"),
    (
        b"{}",
        {"Content-Type": "text/plain"},
        "unsupported Content-Type header (text/plain): must be 'application/json'",
    ),
    (b"{}", {}, "malformed Content-Type header (): mime: no media type"),
]


@pytest.mark.parametrize(("body", "headers", "message"), BODIES)
def test_create_body(engine: Engine, body: bytes, headers: dict[str, str], message: str) -> None:
    answer = engine.api("POST", "/containers/create", body, headers)
    assert (answer.status, answer.message) == (400, message)
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("body", [b"nonsense", b"[]", b'{"Image": 5}', b'{"Image": "x", "Env": 1}'])
def test_create_body_of_another_shape(engine: Engine, body: bytes) -> None:
    answer = engine.api("POST", "/containers/create", body, JSON)
    assert answer.status == 400
    assert answer.message.startswith("invalid JSON: ")


IMAGES = [
    ("nope-image:1", 404, "No such image: nope-image:1"),
    ("nope-image", 404, "No such image: nope-image:latest"),
    ("UPPER", 400, "invalid reference format: repository name (library/UPPER) must be lowercase"),
    ("a b", 400, "invalid reference format"),
    ("", 400, "no command specified"),
]


@pytest.mark.parametrize(("image", "status", "message"), IMAGES)
def test_create_image(engine: Engine, image: str, status: int, message: str) -> None:
    answer = engine.api("POST", "/containers/create", {"Image": image})
    assert (answer.status, answer.message) == (status, message)


def test_without_an_image_the_root_is_empty(engine: Engine, name: str) -> None:
    made = engine.api("POST", f"/containers/create?name={name}", {"Image": "", "Cmd": ["x"]})
    assert made.status == 201
    shown = engine.inspect(name)
    assert (shown["Image"], shown["Config"]["Image"], shown["Config"]["Env"]) == ("", "", None)
    assert engine.api("GET", f"/containers/{name}/changes").json() is None
    begun = engine.api("POST", f"/containers/{name}/start")
    assert begun.status == 400
    assert 'exec: "x": executable file not found in $PATH' in begun.message
    engine.docker("rm", name)


@pytest.mark.parametrize("name", ["bad/name", "a", "-x", "ümlaut"])
def test_create_name(engine: Engine, name: str) -> None:
    quoted = name.replace("ü", "%C3%BC")
    answer = engine.api("POST", f"/containers/create?name={quoted}", {"Image": BUSYBOX})
    assert (answer.status, answer.message) == (
        400,
        f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
    )


def ports(key: str, **binding: str) -> dict[str, Any]:
    return {"HostConfig": {"PortBindings": {key: [binding]}}}


def binds(*values: str) -> dict[str, Any]:
    return {"HostConfig": {"Binds": list(values)}}


CREATE: list[tuple[dict[str, Any], int, str]] = [
    (ports("80/tcp", HostPort="99999"), 400, 'invalid port specification: "99999"'),
    (ports("80/tcp", HostPort="abc"), 400, 'invalid port specification: "abc"'),
    (ports("nope/tcp", HostPort="80"), 400, 'invalid port specification: "nope"'),
    ({"HostConfig": {"Memory": 1000}}, 400, "Minimum memory limit allowed is 6MB"),
    (
        binds("a"),
        500,
        "invalid volume specification: 'a': invalid mount config for type \"volume\": "
        "invalid mount path: 'a' mount path must be absolute",
    ),
    (
        binds("/nope-dir:rel"),
        500,
        "invalid volume specification: '/nope-dir:rel': invalid mount config for type \"bind\": "
        "invalid mount path: 'rel' mount path must be absolute",
    ),
    (
        binds("/tmp:/"),
        500,
        "invalid volume specification: '/tmp:/': invalid mount config for type \"bind\": "
        "invalid specification: destination can't be '/'",
    ),
    (binds("/tmp:/a", "/tmp:/a"), 400, "Duplicate mount point: /a"),
    (binds("/tmp:/a:nomode"), 500, "invalid mode: nomode"),
    (
        {"HostConfig": {"Mounts": [{"Type": "bind", "Source": "/nope-dir", "Target": "/a"}]}},
        400,
        'invalid mount config for type "bind": bind source path does not exist: /nope-dir',
    ),
    (
        {"WorkingDir": "rel"},
        400,
        "the working directory 'rel' is invalid, it needs to be an absolute path",
    ),
    (
        {"HostConfig": {"RestartPolicy": {"Name": "sometimes"}}},
        400,
        "invalid restart policy: unknown policy 'sometimes'; "
        "use one of 'no', 'always', 'on-failure', or 'unless-stopped'",
    ),
    ({"StopSignal": "SIGNOPE"}, 400, "invalid signal: SIGNOPE"),
    ({"HostConfig": {"Runtime": "nope"}}, 400, "unknown or invalid runtime name: nope"),
    (
        {"HostConfig": {"CapAdd": ["NOPE"]}},
        400,
        'invalid CapAdd: unknown capability: "CAP_NOPE"',
    ),
    ({"Env": ["=x"]}, 400, "invalid environment variable: =x"),
    (
        {"HostConfig": {"LogConfig": {"Type": "nope"}}},
        400,
        'error looking up logging plugin nope: plugin "nope" not found',
    ),
    (
        {"HostConfig": {"AutoRemove": True, "RestartPolicy": {"Name": "always"}}},
        400,
        "can't create 'AutoRemove' container with restart policy",
    ),
]


@pytest.mark.parametrize(("change", "status", "message"), CREATE)
def test_create(engine: Engine, change: dict[str, Any], status: int, message: str) -> None:
    body = {"Image": BUSYBOX, "Cmd": ["true"], **change}
    answer = engine.api("POST", f"/containers/create?name={fresh_name()}", body)
    assert (answer.status, answer.message) == (status, message)


NO_CONTAINER: list[tuple[str, str, str]] = [
    ("POST", "/start", "No such container: nope"),
    ("POST", "/stop", "No such container: nope"),
    ("POST", "/kill", "cannot kill container: nope: No such container: nope"),
    ("POST", "/restart", "No such container: nope"),
    ("POST", "/wait", "No such container: nope"),
    ("POST", "/pause", "No such container: nope"),
    ("POST", "/unpause", "No such container: nope"),
    ("POST", "/rename?name=other", "No such container: nope"),
    ("POST", "/resize?h=1&w=1", "No such container: nope"),
    ("GET", "/json", "No such container: nope"),
    ("GET", "/logs?stdout=1", "No such container: nope"),
    ("DELETE", "", "No such container: nope"),
]


@pytest.mark.parametrize(("method", "action", "message"), NO_CONTAINER)
def test_no_such_container(engine: Engine, method: str, action: str, message: str) -> None:
    answer = engine.api(method, f"/containers/nope{action}")
    assert (answer.status, answer.message) == (404, message)


def test_attach_to_no_container(engine: Engine) -> None:
    with engine.hijack("/containers/nope/attach?stream=1&stdout=1") as stream:
        assert stream.status == 404
        assert stream.header("content-type") == "application/vnd.docker.raw-stream"
        assert stream.read_all() == b"No such container: nope\r\n"


def test_exec_in_no_container(engine: Engine) -> None:
    answer = engine.api("POST", "/containers/nope/exec", {"Cmd": ["true"]})
    assert (answer.status, answer.message) == (404, "No such container: nope")


@pytest.mark.parametrize(("method", "action"), [("POST", "start"), ("GET", "json")])
def test_no_such_exec(engine: Engine, method: str, action: str) -> None:
    answer = engine.api(method, f"/exec/nope/{action}", {} if method == "POST" else None)
    assert (answer.status, answer.message) == (404, "No such exec instance: nope")


def test_no_such_exec_to_a_client_that_wants_a_stream(engine: Engine) -> None:
    with engine.hijack("/exec/nope/start", {"Detach": False}) as stream:
        assert (stream.status, stream.header("content-type")) == (404, "application/json")


def test_exec_of_nothing(engine: Engine, running: Callable[..., str]) -> None:
    answer = engine.api("POST", f"/containers/{running(BUSYBOX, 'sleep', '100')}/exec", {})
    assert (answer.status, answer.message) == (400, "No exec command specified")


def test_logs_of_no_stream(engine: Engine) -> None:
    answer = engine.api("GET", "/containers/nope/logs")
    assert (answer.status, answer.message) == (
        400,
        "Bad parameters: you must choose at least one stream",
    )


NO_IMAGE: list[tuple[str, str, int, str]] = [
    ("GET", "/images/nope/json", 404, "No such image: nope:latest"),
    ("DELETE", "/images/nope", 404, "No such image: nope:latest"),
    ("DELETE", "/images/nope:2", 404, "No such image: nope:2"),
    ("POST", "/images/nope/tag?repo=x", 404, "No such image: nope:latest"),
    (
        "POST",
        f"/images/{BUSYBOX}/tag?repo=Bad",
        400,
        "invalid reference format: repository name (library/Bad) must be lowercase",
    ),
    (
        "POST",
        "/images/create?fromImage=Bad%20Name",
        400,
        "invalid reference format: repository name (library/Bad Name) must be lowercase",
    ),
]


@pytest.mark.parametrize(("method", "target", "status", "message"), NO_IMAGE)
def test_image(engine: Engine, method: str, target: str, status: int, message: str) -> None:
    answer = engine.api(method, target)
    assert (answer.status, answer.message) == (status, message)


def test_pull_from_nowhere(engine: Engine) -> None:
    answer = engine.api("POST", "/images/create?fromImage=127.0.0.1:1/nope&tag=1")
    assert answer.status == 500
    assert answer.message == (
        'Get "http://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused'
    )


def test_load_of_junk(engine: Engine) -> None:
    answer = engine.api("POST", "/images/load", b"junk", {"Content-Type": "application/x-tar"})
    assert answer.status == 200
    assert answer.objects() == [
        {"errorDetail": {"message": "unexpected EOF"}, "error": "unexpected EOF"}
    ]


FILTERS: list[tuple[str, int, str]] = [
    ("/containers/json?filters=nonsense", 400, "invalid filter"),
    ('/containers/json?filters={"bad":["x"]}', 400, "invalid filter 'bad'"),
    ('/images/json?filters={"bad":["x"]}', 400, "invalid filter 'bad'"),
    ('/networks?filters={"bad":["x"]}', 400, "invalid filter 'bad'"),
    (
        '/networks?filters={"dangling":["x"]}',
        400,
        'invalid value for filter \'dangling\', must be "true" (or "1"), or "false" (or "0")',
    ),
    ('/networks?filters={"type":["x"]}', 500, "invalid filter: 'type'='x'"),
    ('/volumes?filters={"bad":["x"]}', 400, "invalid filter 'bad'"),
    ("/containers/json?limit=x", 500, 'strconv.Atoi: parsing "x": invalid syntax'),
]


@pytest.mark.parametrize(("target", "status", "message"), FILTERS)
def test_query(engine: Engine, target: str, status: int, message: str) -> None:
    answer = engine.api("GET", target)
    assert (answer.status, answer.message) == (status, message)


def test_name_in_use(engine: Engine, name: str) -> None:
    body = {"Image": BUSYBOX, "Cmd": ["true"]}
    first = engine.api("POST", f"/containers/create?name={name}", body).json()["Id"]
    answer = engine.api("POST", f"/containers/create?name={name}", body)
    assert (answer.status, answer.message) == (
        409,
        f'Conflict. The container name "/{name}" is already in use by container "{first}". '
        "You have to remove (or rename) that container to be able to reuse that name.",
    )


PREFIX = (
    "failed to create task for container: failed to create shim task: OCI runtime create failed: "
    "runc create failed: unable to start container process: error during container init: "
)

COMMANDS: list[tuple[str, int, str]] = [
    ("nopecmd", 127, 'exec: "nopecmd": executable file not found in $PATH'),
    ("/nope", 127, 'exec: "/nope": stat /nope: no such file or directory'),
    ("/etc/passwd", 126, 'exec: "/etc/passwd": permission denied'),
    ("/etc", 126, 'exec: "/etc": is a directory: permission denied'),
]


@pytest.mark.parametrize(("command", "code", "text"), COMMANDS)
def test_command_that_cannot_run(
    engine: Engine, name: str, command: str, code: int, text: str
) -> None:
    body = {"Image": BUSYBOX, "Cmd": [command]}
    container = engine.api("POST", f"/containers/create?name={name}", body).json()["Id"]
    answer = engine.api("POST", f"/containers/{container}/start")
    assert answer.status == 400
    # Docker says ": unknown" after what comes from containerd without a class of its own.
    assert answer.message.removesuffix(": unknown") == PREFIX + text
    state = engine.inspect(container)["State"]
    assert (state["Status"], state["ExitCode"], state["Pid"]) == ("created", code, 0)
    assert text in state["Error"]


@pytest.mark.parametrize(("command", "code", "text"), COMMANDS)
def test_docker_run_of_such_a_command(engine: Engine, command: str, code: int, text: str) -> None:
    done = engine.docker("run", "--rm", BUSYBOX, command, check=False)
    assert done.returncode == code
    # And with nothing before it: whoever waits for the exit hears nothing of a failed start.
    assert done.stderr.startswith("docker: Error response from daemon: " + PREFIX + text)


def test_failed_start_with_rm_removes(engine: Engine, name: str) -> None:
    assert (
        engine.docker("run", "--rm", "--name", name, BUSYBOX, "nope", check=False).returncode == 127
    )
    assert engine.api("GET", f"/containers/{name}/json").status == 404


def test_unknown_user(engine: Engine, name: str) -> None:
    done = engine.docker("run", "--name", name, "-u", "nouser", BUSYBOX, "true", check=False)
    assert done.returncode == 125
    assert "unable to find user nouser: no matching entries in passwd file" in done.stderr


def test_unknown_network(engine: Engine, name: str) -> None:
    body = {"Image": BUSYBOX, "Cmd": ["true"], "HostConfig": {"NetworkMode": "nopenet"}}
    assert engine.api("POST", f"/containers/create?name={name}", body).status == 201
    answer = engine.api("POST", f"/containers/{name}/start")
    assert (answer.status, answer.message) == (
        404,
        "failed to set up container networking: network nopenet not found",
    )


def test_port_already_taken(engine: Engine, own_engine: OwnEngine, name: str) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        body = {"Image": BUSYBOX, "Cmd": ["sleep", "100"], **ports("80/tcp", HostPort=port)}
        engine.api("POST", f"/containers/create?name={name}", body)
        answer = engine.api("POST", f"/containers/{name}/start")
    assert answer.status == 500
    assert re.fullmatch(
        "failed to set up container networking: driver failed programming external connectivity on "
        rf"endpoint {name} \([0-9a-f]{{64}}\): failed to bind host port for 0\.0\.0\.0:{port}:"
        r"[0-9.]+:80/tcp: address already in use",
        answer.message,
    ), answer.message
    assert engine.status(name) == "created"
    # With the port free again the same container starts.
    assert engine.api("POST", f"/containers/{name}/start").status == 204


def test_port_taken_by_a_container(engine: Engine, name: str, running: Callable[..., str]) -> None:
    first = running("-p", "80", BUSYBOX, "sleep", "100")
    port = engine.docker("port", first, "80/tcp").stdout.splitlines()[0].rpartition(":")[2]
    done = engine.docker("run", "--name", name, "-p", f"{port}:80", BUSYBOX, "true", check=False)
    assert done.returncode == 125
    assert f":{port} failed: port is already allocated" in done.stderr


NOT_RUNNING: list[tuple[str, str, Any]] = [
    ("POST", "/kill", None),
    ("POST", "/pause", None),
    ("POST", "/resize?h=1&w=1", None),
    ("POST", "/exec", {"Cmd": ["true"]}),
    ("GET", "/top", None),
]


@pytest.mark.parametrize(("method", "action", "body"), NOT_RUNNING)
def test_not_running(engine: Engine, name: str, method: str, action: str, body: Any) -> None:
    created = engine.api("POST", f"/containers/create?name={name}", {"Image": BUSYBOX})
    container = created.json()["Id"]
    answer = engine.api(method, f"/containers/{name}{action}", body)
    assert answer.status == 409
    assert answer.message.endswith(f"container {container} is not running"), answer.message


def test_remove_of_a_running_one(engine: Engine, running: Callable[..., str]) -> None:
    name = running(BUSYBOX, "sleep", "100")
    answer = engine.api("DELETE", f"/containers/{name}")
    assert (answer.status, answer.message) == (
        409,
        f'cannot remove container "{name}": container is running: '
        "stop the container before removing or force remove",
    )


def test_start_and_stop_twice_are_no_errors(engine: Engine, running: Callable[..., str]) -> None:
    name = running(BUSYBOX, "sleep", "100")
    assert engine.api("POST", f"/containers/{name}/start").status == 304
    assert engine.api("POST", f"/containers/{name}/stop?t=0").status == 204
    assert engine.api("POST", f"/containers/{name}/stop?t=0").status == 304


def test_bad_detach_keys(engine: Engine, running: Callable[..., str]) -> None:
    name = running(BUSYBOX, "sleep", "100")
    with engine.hijack(f"/containers/{name}/attach?stream=1&stdout=1&detachKeys=ctrl-%5E%5E") as s:
        assert s.status == 400
        assert b"Invalid detach keys (ctrl-^^) provided" in s.read_all()


def test_bad_signal(engine: Engine, running: Callable[..., str]) -> None:
    name = running(BUSYBOX, "sleep", "100")
    answer = engine.api("POST", f"/containers/{name}/kill?signal=NOPE")
    assert (answer.status, answer.message) == (
        400,
        f"cannot kill container: {name}: invalid signal: NOPE",
    )
    assert engine.status(name) == "running"
