"""A Compose stack of real programs from Debian: PostgreSQL, Redis and nginx.

./test unpacks them below .cache/programs; the image is busybox with these on top.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Callable, Iterator

import pytest

from tests import polling
from tests.archives import CHECKOUT, busybox_layer, docker_archive
from tests.compat.test_compose_stacks import answer
from tests.compose import Compose
from tests.engine import Engine

PROGRAMS = CHECKOUT / ".cache" / "programs"
IMAGE = "longshore-test/programs:1"
# What Debian's base-files would bring: the packages have all below /usr, but name /lib64 and /lib.
MERGED = ("lib", "lib64", "sbin")


def programs_layer() -> bytes:
    if not (PROGRAMS / ".complete").exists():
        raise RuntimeError("the programs are missing: ./test fetches them")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in sorted(path.name for path in PROGRAMS.iterdir() if path.is_dir()):
            archive.add(PROGRAMS / name, name)
        for name in MERGED:
            if not (PROGRAMS / name).exists():
                link = tarfile.TarInfo(name)
                link.type, link.linkname = tarfile.SYMTYPE, f"usr/{name}"
                archive.addfile(link)
    return buffer.getvalue()


@pytest.fixture
def programs(engine: Engine) -> Iterator[None]:
    archive = docker_archive([IMAGE], [busybox_layer(), programs_layer()])
    headers = {"Content-Type": "application/x-tar"}
    answer = engine.api("POST", "/images/load?quiet=1", archive, headers, timeout=60)
    assert IMAGE.encode() in answer.body, answer.body
    yield
    engine.api("DELETE", f"/images/{IMAGE}?force=1")


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("programs")  # first, so that its image is removed after the containers
def test_shop(compose: Callable[[str], Compose]) -> None:
    stack = compose("shop")

    def page() -> tuple[str, int, int]:
        """The app's container that answered, the visits, the goods."""
        address = stack("port", "web", "80").stdout

        def match() -> re.Match[str] | None:  # None while a server has only been started
            return re.fullmatch(r"(\w+): visit (\d+), (\d+) goods\n", answer(address, "/"))

        found = polling.until(match, "a complete page")
        assert found
        return found[1], int(found[2]), int(found[3])

    stack("up", "-d", "--wait", timeout=120)
    assert page()[1:] == (1, 2)
    sql = "INSERT INTO goods VALUES ('bread')"
    stack.sh("db", f'/usr/lib/postgresql/*/bin/psql -U postgres -c "{sql}"')
    assert page()[1:] == (2, 3)

    stack("up", "-d", "--scale", "app=2", "--no-recreate")
    first = page()[0]
    # Chosen at random each time.
    polling.until(lambda: page()[0] != first, "the other one to be asked", timeout=60)
    visits = page()[1]

    stack("restart", "cache")
    assert page()[1] == visits + 1
    stack("stop", "db", "cache")
    stack("down", "-t", "0")
    stack("up", "-d", "--wait", timeout=120)
    assert page()[1:] == (visits + 2, 3)
