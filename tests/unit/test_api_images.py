"""Images, progress and references as the API has them; answers recorded from dockerd 28.5."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from common.errors import InvalidArgument
from compat_api import image_json, image_search, progress, reference
from compat_api.request import parse_auth
from lifecycle._pb import images_pb2 as pb
from lifecycle._pb import types_pb2

IMAGE_ID = "sha256:98e6f1b5f22d944836462623f9b66bcb0cc9d9360eb69c4402215533ef301575"
LAYERS = [
    "sha256:0db6768e06668154f90094158ec22c95980b08f7134f344bfe7208ad2db160b2",
    "sha256:5d4ab11646662f2a3bf3be922d26a54cfcc102ff7d37ba2157431c07a914b505",
]
CREATED = 1795240701_792623742
CONFIG = {
    "architecture": "amd64",
    "config": {
        "Hostname": "",
        "User": "1:1",
        "AttachStdin": False,
        "ExposedPorts": {"80/tcp": {}},
        "Tty": False,
        "Env": ["PATH=/bin", "A=b"],
        "Cmd": None,
        "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 5000000000},
        "Image": "sha256:6f6a253e3fa34ac5ed590f3eeac75cf62321ccdb007f7343c81cf38cff94e07c",
        "Volumes": {"/data": {}},
        "WorkingDir": "/w",
        "Entrypoint": ["echo"],
        "OnBuild": ["RUN echo x"],
        "Labels": {"a": "b"},
        "StopSignal": "SIGINT",
        "Shell": ["/bin/sh", "-c"],
    },
    "created": "2026-11-21T05:58:21.792623742Z",
    "docker_version": "28.5.2",
    "history": [
        {"created": "2026-11-21T05:22:50.83069114Z", "comment": "Imported from -"},
        {
            "created": "2026-11-21T05:58:21.682673877Z",
            "created_by": "/bin/sh -c #(nop)  USER 1:1",
            "empty_layer": True,
        },
        {
            "created": "2026-11-21T05:58:21.722005181Z",
            "created_by": "/bin/sh -c #(nop) WORKDIR /w",
        },
        {
            "created": "2026-11-21T05:58:21.792623742Z",
            "created_by": "/bin/sh -c #(nop)  ENV A=b",
            "empty_layer": True,
        },
    ],
    "os": "linux",
    "rootfs": {"type": "layers", "diff_ids": LAYERS},
}


def image(**changes: Any) -> pb.Image:
    fields: dict[str, Any] = {
        "id": IMAGE_ID,
        "tags": ["lsb:1"],
        "created": CREATED,
        "size": 2065348,
        "shared_size": -1,
        "config": orjson.dumps(CONFIG),
        "layers": LAYERS,
        "last_tagged": CREATED + 15523303,
        "driver": "overlay2",
        "history_sizes": [
            pb.LayerSize(diff_id=LAYERS[0], size=2065348),
            pb.LayerSize(diff_id=LAYERS[1], size=7),
        ],
        "snapshot": {"UpperDir": "/u", "LowerDir": "/l", "MergedDir": "/m", "WorkDir": "/w"},
    }
    return pb.Image(**(fields | changes))


def test_inspect() -> None:
    body = image_json.inspect(image())
    assert orjson.dumps(body) == orjson.dumps(
        {
            "Id": IMAGE_ID,
            "RepoTags": ["lsb:1"],
            "RepoDigests": [],
            "Parent": "",
            "Comment": "",
            "Created": "2026-11-21T05:58:21.792623742Z",
            "DockerVersion": "28.5.2",
            "Author": "",
            "Architecture": "amd64",
            "Os": "linux",
            "Size": 2065348,
            "GraphDriver": {
                "Data": {"LowerDir": "/l", "MergedDir": "/m", "UpperDir": "/u", "WorkDir": "/w"},
                "Name": "overlay2",
            },
            "RootFS": {"Type": "layers", "Layers": LAYERS},
            "Metadata": {"LastTagTime": "2026-11-21T05:58:21.808147045Z"},
            "Config": {
                "Cmd": None,
                "Entrypoint": ["echo"],
                "Env": ["PATH=/bin", "A=b"],
                "ExposedPorts": {"80/tcp": {}},
                "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 5000000000},
                "Labels": {"a": "b"},
                "OnBuild": ["RUN echo x"],
                "Shell": ["/bin/sh", "-c"],
                "StopSignal": "SIGINT",
                "User": "1:1",
                "Volumes": {"/data": {}},
                "WorkingDir": "/w",
            },
        }
    )


def test_inspect_of_an_image_without_configuration() -> None:
    config = orjson.dumps({"os": "linux", "architecture": "arm64", "variant": "v8", "config": None})
    body = image_json.inspect(image(config=config, created=0, layers=[], last_tagged=0))
    assert "Created" not in body
    assert body["Variant"] == "v8"
    assert body["RootFS"] == {"Type": "layers"}
    assert body["Metadata"] == {"LastTagTime": "0001-01-01T00:00:00Z"}
    assert body["Config"] == {
        "Cmd": None,
        "Entrypoint": None,
        "Env": None,
        "Labels": None,
        "OnBuild": None,
        "User": "",
        "Volumes": None,
        "WorkingDir": "",
    }


def test_summary() -> None:
    assert orjson.dumps(image_json.summary(image(containers=2))) == orjson.dumps(
        {
            "Containers": 2,
            "Created": 1795240701,
            "Id": IMAGE_ID,
            "Labels": {"a": "b"},
            "ParentId": "",
            "RepoDigests": [],
            "RepoTags": ["lsb:1"],
            "SharedSize": -1,
            "Size": 2065348,
        }
    )


def test_history_is_newest_first_and_only_layers_have_sizes() -> None:
    rows = image_json.history(image())
    assert [row["Size"] for row in rows] == [0, 7, 0, 2065348]
    assert rows[0] == {
        "Comment": "",
        "Created": 1795240701,
        "CreatedBy": "/bin/sh -c #(nop)  ENV A=b",
        "Id": IMAGE_ID,
        "Size": 0,
        "Tags": ["lsb:1"],
    }
    assert rows[3] == {
        "Comment": "Imported from -",
        "Created": 1795238570,
        "CreatedBy": "",
        "Id": "<missing>",
        "Size": 2065348,
        "Tags": None,
    }


def test_removed() -> None:
    reply = pb.RemoveImageReply(
        removed=[pb.RemovedImage(untagged="a:b"), pb.RemovedImage(deleted=IMAGE_ID)]
    )
    assert image_json.removed(reply) == [{"Untagged": "a:b"}, {"Deleted": IMAGE_ID}]


def test_remote() -> None:
    found = pb.RemoteImage(
        media_type="m", digest="sha256:d", size=527, platforms=["linux/amd64", "linux/arm/v7"]
    )
    assert image_json.remote(found) == {
        "Descriptor": {"mediaType": "m", "digest": "sha256:d", "size": 527},
        "Platforms": [
            {"architecture": "amd64", "os": "linux"},
            {"architecture": "arm", "os": "linux", "variant": "v7"},
        ],
    }


@pytest.mark.parametrize(
    ("name", "tag", "joined"),
    [
        ("busybox", "", "busybox"),
        ("busybox", "1", "busybox:1"),
        ("busybox:2", "1", "busybox:1"),
        ("host:5000/a/b", "1", "host:5000/a/b:1"),
        ("host:5000/a/b:2", "1", "host:5000/a/b:1"),
        ("a@sha256:" + "0" * 64, "1", "a:1"),
        ("a", "sha256:" + "0" * 64, "a@sha256:" + "0" * 64),
    ],
)
def test_join(name: str, tag: str, joined: str) -> None:
    assert reference.join(name, tag) == joined


def test_bare_names() -> None:
    assert reference.is_bare("host:5000/a")
    assert not reference.is_bare("host:5000/a:1")
    assert not reference.is_bare("a@sha256:" + "0" * 64)


def test_platform() -> None:
    assert reference.parse_platform("") == ""
    text = '{"os":"linux","architecture":"arm","variant":"v7"}'
    assert reference.parse_platform(text) == "linux/arm/v7"
    with pytest.raises(InvalidArgument, match="both OS and Architecture must be provided"):
        reference.parse_platform('{"os":"linux"}')
    with pytest.raises(
        InvalidArgument,
        match="failed to parse platform: invalid character 'x' looking for beginning of value",
    ):
        reference.parse_platform("xx")


@pytest.mark.parametrize(
    ("current", "total", "text"),
    [
        (0, 0, ""),
        (0, 1000, "[>                                                  ]       0B/1kB"),
        (500, 1000, "[=========================>                         ]     500B/1kB"),
        (1234567, 3400000, "[==================>                                ]  1.235MB/3.4MB"),
        (1000, 1000, "[==================================================>]      1kB/1kB"),
        (2000, 1000, "[==================================================>]      2kB"),
        (12345, 0, " 12.35kB"),
    ],
)
def test_bar(current: int, total: int, text: str) -> None:
    assert progress.bar(current, total) == text


def test_progress_lines() -> None:
    def line(**fields: Any) -> bytes:
        return orjson.dumps(progress.line(types_pb2.Progress(**fields)))

    assert line(status="Pulling from library/x", id="1") == (
        b'{"status":"Pulling from library/x","id":"1"}'
    )
    assert line(status="Pulling fs layer", id="0db6768e0666") == (
        b'{"status":"Pulling fs layer","progressDetail":{},"id":"0db6768e0666"}'
    )
    assert line(status="Downloading", id="0db6768e0666", current=500, total=1000) == (
        b'{"status":"Downloading","progressDetail":{"current":500,"total":1000},'
        b'"progress":"[=========================\\u003e                         ]     500B/1kB",'
        b'"id":"0db6768e0666"}'
    ).replace(b"\\u003e", b">")
    assert line(status="Status: Image is up to date for x:1") == (
        b'{"status":"Status: Image is up to date for x:1"}'
    )
    assert line(aux=b'{"Tag":"1","Digest":"sha256:a","Size":527}') == (
        b'{"progressDetail":{},"aux":{"Tag":"1","Digest":"sha256:a","Size":527}}'
    )
    assert line(stream="Loaded image: x:1\n") == b'{"stream":"Loaded image: x:1\\n"}'


def test_auth_header() -> None:
    # base64url with and without padding; the first has a character that plain base64 lacks.
    auth = parse_auth("eyJ1c2VybmFtZSI6ImEiLCJwYXNzd29yZCI6Im8_Pz8ifQ==")
    assert auth is not None
    assert (auth.username, auth.password) == ("a", "o???")
    assert parse_auth("eyJ1c2VybmFtZSI6ImEiLCJwYXNzd29yZCI6Im8_Pz8ifQ") == auth
    for nothing in ("", "e30=", "e30", "zz!!", "bm90IGpzb24="):
        assert parse_auth(nothing) is None


def test_search_terms_filters_and_hosts() -> None:
    assert image_search.split_term("busy") == ("index.docker.io", "busy")
    assert image_search.split_term("docker.io/x/y") == ("index.docker.io", "x/y")
    assert image_search.split_term("library/busy") == ("index.docker.io", "library/busy")
    assert image_search.split_term("localhost:5000/busy") == ("localhost:5000", "busy")
    found = image_search.result({"name": "x", "star_count": 5, "is_official": True})
    filters = [
        types_pb2.Filter(key="stars", values=["3"]),
        types_pb2.Filter(key="is-official", values=["true"]),
    ]
    assert image_search.matches(found, filters)
    assert not image_search.matches(found, [types_pb2.Filter(key="stars", values=["6"])])
    with pytest.raises(InvalidArgument):
        image_search.check_filter(types_pb2.Filter(key="stars", values=["x"]))
    assert image_search.is_insecure("127.0.0.1:5000", [])
    assert image_search.is_insecure("10.1.2.3:5000", ["10.0.0.0/8"])
    assert image_search.is_insecure("reg.local:5000", ["reg.local:5000"])
    assert not image_search.is_insecure("reg.local", ["10.0.0.0/8"])
