"""The Dockerfile instructions of import and commit."""

from __future__ import annotations

import pytest

from common.errors import InvalidArgument
from images.changes import apply
from images.model import Healthcheck, ImageConfig


def test_changes() -> None:
    config = apply(
        ImageConfig(env=("A=old", "KEEP=1")),
        [
            'CMD ["a", "b"]',
            "entrypoint run me",
            "ENV A=new B='x y'\nENV C some words",
            "EXPOSE 80 53/udp 90-91",
            'LABEL k=v l="w x"',
            "USER nobody:nogroup",
            'VOLUME ["/a", "/b"]',
            "VOLUME /a /c",
            "WORKDIR /srv",
            "WORKDIR sub",
            "ONBUILD RUN make",
            "STOPSIGNAL SIGINT",
            "HEALTHCHECK --interval=1m30s --retries=3 CMD curl localhost",
        ],
    )
    assert config == ImageConfig(
        cmd=("a", "b"),
        entrypoint=("/bin/sh", "-c", "run me"),
        env=("A=new", "KEEP=1", "B=x y", "C=some words"),
        exposed_ports=("80/tcp", "53/udp", "90/tcp", "91/tcp"),
        labels={"k": "v", "l": "w x"},
        user="nobody:nogroup",
        volumes=("/a", "/b", "/c"),
        working_dir="/srv/sub",
        on_build=("RUN make",),
        stop_signal="SIGINT",
        healthcheck=Healthcheck(
            test=("CMD-SHELL", "curl localhost"), interval=90_000_000_000, retries=3
        ),
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("RUN x", "RUN is not a valid change command"),
        ("CMD", "CMD requires at least one argument"),
        ("EXPOSE 0", "Invalid containerPort: 0"),
        ("EXPOSE x/tcp", "Invalid containerPort: x"),
        ("EXPOSE 80/icmp", "Invalid proto: icmp"),
        ("ENV A", "ENV must have two arguments"),
        ("HEALTHCHECK CMD", "missing command after HEALTHCHECK CMD"),
        ("HEALTHCHECK --interval=x CMD y", 'invalid duration "x"'),
        ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
    ],
)
def test_errors(change: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        apply(ImageConfig(), [change])
    assert message in str(raised.value)
