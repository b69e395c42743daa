"""What a container changed, as a layer: the way from overlayfs to tar and back."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from images.model import ImageConfig
from tests.archives import Layer, docker_archive
from tests.root.images_lab import CONTAINER, layer_directory, leftovers, load, service


def change(upper: Path) -> None:
    """What overlayfs would leave in the upper directory."""
    (upper / "etc").mkdir(mode=0o755)
    os.mknod(upper / "etc/gone", stat.S_IFCHR, 0)
    (upper / "etc/new").write_text("new")
    (upper / "etc/new").chmod(0o4750)
    os.chown(upper / "etc/new", 12, 34)
    os.chmod(upper / "etc/new", 0o4750)
    os.link(upper / "etc/new", upper / "etc/same")
    (upper / "link").symlink_to("/etc/passwd")
    (upper / "fresh").mkdir()
    os.setxattr(upper / "fresh", "trusted.overlay.opaque", b"y")
    os.setxattr(upper / "fresh", "user.kept", b"\xff")
    os.mkfifo(upper / "fifo")
    (upper / os.fsdecode(b"\xff")).touch()


async def test_commit(tmp_path: Path) -> None:
    root = tmp_path / "root"
    base = Layer().directory("etc").file("etc/gone", "x").directory("fresh").file("fresh/f", "y")
    async with service(root) as images:
        (image,), _ = await load(images, docker_archive(["a:1"], [base.tar()]))
        await images.prepare_container(CONTAINER, image)
        change(images.details.container_upper(CONTAINER))
        made = await images.commit(
            CONTAINER,
            image=image,
            image_config=ImageConfig(cmd=("run",)),
            name="b",
            author="me",
            comment="by hand",
            created_by="sh",
        )
        assert made.repo_tags == ("b:latest",)
        assert made.parent == image.id
        assert made.config.cmd == ("run",)
        assert made.chain_ids[:1] == image.chain_ids
        assert [item.created_by for item in images.history("b")] == ["sh", "test"]
        directory = layer_directory(root, made.chain_ids[1])
        assert stat.S_ISCHR((directory / "etc/gone").lstat().st_mode)
        state = (directory / "etc/new").stat()
        assert (state.st_uid, state.st_gid, stat.S_IMODE(state.st_mode)) == (12, 34, 0o4750)
        assert state.st_nlink == 2
        assert os.readlink(directory / "link") == "/etc/passwd"
        assert os.getxattr(directory / "fresh", "trusted.overlay.opaque") == b"y"
        assert os.getxattr(directory / "fresh", "user.kept") == b"\xff"
        assert stat.S_ISFIFO((directory / "fifo").lstat().st_mode)
        assert b"\xff" in os.listdir(os.fsencode(directory))
        assert made.size == image.size + len("new") + len("/etc/passwd")
        await images.remove_container(CONTAINER)
        assert not leftovers(root)
