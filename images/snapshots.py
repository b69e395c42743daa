"""Library: the directories that overlayfs stacks; used by lifecycle and by the worker.

    <data-root>/snapshots/<chain id>/{fs,layer.json}  a layer, complete and never changed again
    <data-root>/snapshots/<container id>/{fs,work}    a container's upper and work directories
    <data-root>/snapshots/init/fs                     mount points that every container needs
    <data-root>/snapshots/l/<16 characters>           symlinks to the layers' fs, see below
    <data-root>/snapshots/new/<random>/               being unpacked by the worker
    <data-root>/snapshots/own-<random>/               being made or removed by lifecycle
    <data-root>/snapshots/driver                      overlay2, or vfs: see images/copies.py

The worker makes layers: it unpacks and then renames. All else is lifecycle's. Nothing
is mounted here: ``prepare_container`` returns the mount, and the runtime makes it inside the
container's mount namespace.

Options of one mount(2) must fit in a page, and one fsconfig(2) value in 256 bytes. Since Linux 6.7
overlayfs takes the layers one by one (``lowerdir+``), which is what we emit there. Older kernels
get one ``lowerdir``, through the short symlinks below ``l/`` once the real paths are too long for a
page.

The layer at the bottom is always ``init``: what an image lacks of /proc, /sys, /dev, /etc/hosts and
such is there without the runtime creating it in the upper directory, where ``docker diff`` would
show it; and what an image has wins over it.
"""

from __future__ import annotations

import array
import fcntl
import json
import os
import re
import secrets
import shutil
import stat
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from common.errors import InternalError, InvalidArgument
from images import copies
from images.model import Mount

INIT = "init"
LINKS = "l"
UNPACKING = "new"
OWN = "own-"
LINK_CHARACTERS = 16
PAGE = 4096
OTHER_OPTIONS = 512  # left for upperdir, workdir and what the runtime adds
LOWERDIR_PLUS_SINCE = (6, 7)
FIXED_OPTIONS = ("index=off", "redirect_dir=off", "metacopy=off")
FS_IOC_GETFLAGS = 0x80086601  # linux/fs.h
FS_IOC_SETFLAGS = 0x40086602
FS_TOPDIR_FL = 0x00020000

DRIVER, MERGED, INDEX = "driver", "merged", "index.json"

_FIXED = (INIT, LINKS, UNPACKING, DRIVER)
_INIT_DIRECTORIES = ("dev", "dev/pts", "dev/shm", "etc", "proc", "sys")
_INIT_FILES = (".dockerenv", "dev/console", "etc/hostname", "etc/hosts", "etc/resolv.conf")


OVERLAY, COPY = "overlay2", "vfs"  # as Docker names them


class Snapshots:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.driver = _read_driver(root)
        self._one_by_one = _kernel_version() >= LOWERDIR_PLUS_SINCE

    def create(self, driver: str = "") -> None:
        """The fixed directories; lifecycle calls it when it opens the store.

        Without a ``driver`` it is the one that the data root was made with, or the best that works.
        """
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._choose_driver(driver)
        (self.root / LINKS).mkdir(mode=0o700, exist_ok=True)
        (self.root / UNPACKING).mkdir(mode=0o700, exist_ok=True)
        _spread(self.root / UNPACKING)
        init = self.root / INIT / "fs"
        if init.exists():
            return
        partial = self.root / (OWN + secrets.token_hex(8))
        for name in ("", *_INIT_DIRECTORIES):
            directory = partial / "fs" / name
            directory.mkdir(parents=True)
            directory.chmod(0o755)
        for name in _INIT_FILES:
            (partial / "fs" / name).touch()
            (partial / "fs" / name).chmod(0o755)
        (partial / "fs/etc/mtab").symlink_to("/proc/mounts")
        partial.rename(self.root / INIT)

    def _choose_driver(self, wanted: str) -> None:
        file = self.root / DRIVER
        if file.exists() or (self.root / INIT).exists():
            if wanted not in ("", self.driver):
                raise InvalidArgument(
                    f"{self.root} was made with the storage driver {self.driver}: use that one,"
                    " or another --data-root"
                )
        else:
            self.driver = wanted or (OVERLAY if _overlay_works(self.root) else COPY)
        file.write_text(f"{self.driver}\n")

    # ---- layers, made by the worker

    def layer(self, chain_id: str) -> Path:
        return self.root / chain_id.removeprefix("sha256:")

    def layer_size(self, chain_id: str) -> int | None:
        """What the layer's files add up to; None if there is no such layer."""
        try:
            record = json.loads((self.layer(chain_id) / "layer.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        size = record["size"]
        return size if isinstance(size, int) else None

    def new_partial(self) -> Path:
        partial = self.root / UNPACKING / secrets.token_hex(16)
        (partial / "fs").mkdir(parents=True, mode=0o755)
        (partial / "fs").chmod(0o755)
        return partial

    def commit_layer(self, partial: Path, chain_id: str, *, size: int) -> None:
        """Give a complete layer its name. If another had it first, the two are the same."""
        target = self.layer(chain_id)
        link_name = secrets.token_hex(LINK_CHARACTERS // 2)
        record = {"chain_id": chain_id, "size": size, "link": link_name}
        (partial / "layer.json").write_text(json.dumps(record))
        link = self.root / LINKS / link_name
        link.symlink_to(f"../{target.name}/fs")
        try:
            partial.rename(target)
        except OSError:
            link.unlink()
            if self.layer_size(chain_id) is None:
                raise
            shutil.rmtree(partial)

    # ---- containers

    def prepare_container(self, container_id: str, chain_ids: Sequence[str]) -> list[Mount]:
        """Make the container's directories if they are not there, and say how to mount them."""
        directory = self.root / container_id
        if self.driver == COPY:
            if not directory.exists():
                self._copy_image(directory, chain_ids)
            return [Mount("bind", os.fspath(directory / MERGED), "/", ("rbind", "rprivate"))]
        upper, work = directory / "fs", directory / "work"
        lower = [self.layer(chain_id) / "fs" for chain_id in reversed(chain_ids)]
        if not upper.exists():
            self._make_container(directory, lower[0] if lower else self.root / INIT / "fs")
        options = (*self._lower_options(lower), f"upperdir={upper}", f"workdir={work}")
        return [Mount("overlay", "overlay", "/", (*options, *FIXED_OPTIONS))]

    def _copy_image(self, directory: Path, chain_ids: Sequence[str]) -> None:
        partial = self.root / (OWN + secrets.token_hex(8))
        partial.mkdir()
        layers = [self.root / INIT / "fs", *(self.layer(chain) / "fs" for chain in chain_ids)]
        copies.merge(layers, partial / MERGED)
        copies.write_index(partial / MERGED, partial / INDEX)
        partial.rename(directory)

    def copied_changes(self, container_id: str) -> list[copies.Change]:
        directory = self.root / container_id
        return copies.changes(directory / MERGED, directory / INDEX)

    @contextmanager
    def changed_files(self, container_id: str) -> Iterator[Path]:
        """A directory with what the container has changed and, in some form, whiteouts."""
        if self.driver == OVERLAY:
            yield self.upper_directory(container_id)
            return
        directory, partial = self.root / container_id, self.new_partial()
        try:
            copies.write_layer(directory / MERGED, directory / INDEX, partial / "changed")
            yield partial / "changed"
        finally:
            shutil.rmtree(partial)

    def lower_directories(self, chain_ids: Sequence[str]) -> list[Path]:
        """The layers' directories, the top one first, without ``init``."""
        return [self.layer(chain_id) / "fs" for chain_id in reversed(chain_ids)]

    def upper_directory(self, container_id: str) -> Path:
        return self.root / container_id / "fs"

    def _make_container(self, directory: Path, top: Path) -> None:
        # The mounted root has the upper directory's owner and mode: it needs the image's.
        state = top.stat()
        partial = self.root / (OWN + secrets.token_hex(8))
        (partial / "fs").mkdir(parents=True)
        os.chown(partial / "fs", state.st_uid, state.st_gid)
        (partial / "fs").chmod(stat.S_IMODE(state.st_mode))
        (partial / "work").mkdir(mode=0o700)
        partial.rename(directory)

    def _lower_options(self, lower: Sequence[Path]) -> tuple[str, ...]:
        paths = [str(path) for path in (*lower, self.root / INIT / "fs")]
        if self._one_by_one:
            return tuple(f"lowerdir+={path}" for path in paths)
        option = "lowerdir=" + ":".join(paths)
        if len(option) > PAGE - OTHER_OPTIONS:
            option = "lowerdir=" + ":".join((*(self._link(path) for path in lower), paths[-1]))
        if len(option) > PAGE - OTHER_OPTIONS:
            raise InternalError(
                f"the image has {len(lower)} layers, more than this kernel can mount"
                f" below {self.root}: Linux 6.7 has no such limit"
            )
        return (option,)

    def _link(self, layer: Path) -> str:
        record = json.loads((layer.parent / "layer.json").read_bytes())
        return str(self.root / LINKS / record["link"])

    # ---- removal

    def detach(self, name: str) -> Path | None:
        """Take a snapshot out of its place at once; ``discard`` removes it in its own time."""
        name = name.removeprefix("sha256:")
        partial = self.root / (OWN + secrets.token_hex(16))
        try:
            (self.root / name).rename(partial)
        except FileNotFoundError:
            return None
        return partial

    def discard(self, partial: Path) -> None:
        """Blocking, possibly for seconds. Whatever cannot go now goes at the next start."""
        try:
            record = json.loads((partial / "layer.json").read_bytes())
            (self.root / LINKS / record["link"]).unlink(missing_ok=True)
        except (FileNotFoundError, ValueError):
            pass  # a container, or a layer that was never finished
        shutil.rmtree(partial, ignore_errors=True)

    def names(self) -> Iterator[str]:
        """Layers (hex chain ids) and containers (their ids)."""
        with os.scandir(self.root) as entries:
            for entry in entries:
                if not entry.name.startswith(OWN) and entry.name not in _FIXED:
                    yield entry.name

    def partials(self) -> list[Path]:
        """Whatever is being made or removed: at lifecycle's start all of it is a crash's."""
        return [*self.unpacking(), *self.root.glob(OWN + "*")]

    def unpacking(self) -> list[Path]:
        """What the worker is making; at its start, what the one before it left."""
        return list((self.root / UNPACKING).iterdir())

    def prune_links(self) -> None:
        for link in (self.root / LINKS).iterdir():
            if not link.exists():
                link.unlink()


def mark_opaque(directory: int, paths: Iterable[bytes]) -> None:
    """Hide what lower layers have in these directories below ``directory``.

    The paths come from an archive: each component is opened without following links.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    for path in paths:
        fd = os.dup(directory)
        try:
            for part in filter(None, path.split(b"/")):
                below = os.open(part, flags, dir_fd=fd)
                os.close(fd)
                fd = below
            os.setxattr(fd, b"trusted.overlay.opaque", b"y")
        finally:
            os.close(fd)


def _spread(directory: Path) -> None:
    """Have ext4 place each directory below this one somewhere else on the disk.

    ext4 does not give an inode anew within minutes of its deletion, and looks at each one that it
    skips. A layer unpacked where one was just removed takes ten times as long: 6,500 files 5 s, not
    0.4 s. Below a "top" directory it begins at a block group of its own.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = array.array("i", [0])
        fcntl.ioctl(fd, FS_IOC_GETFLAGS, flags)
        flags[0] |= FS_TOPDIR_FL
        fcntl.ioctl(fd, FS_IOC_SETFLAGS, flags)
    except OSError:
        pass  # another file system, which has no such flag and no need for it
    finally:
        os.close(fd)


def _read_driver(root: Path) -> str:
    try:
        return (root / DRIVER).read_text().strip()
    except FileNotFoundError:
        return OVERLAY


def _overlay_works(root: Path) -> bool:
    """Whether a container's root could be mounted here: tried, in a namespace that ends at once."""
    partial = root / (OWN + secrets.token_hex(8))
    names = ("lower", "upper", "work", "merged")
    for name in names:
        (partial / name).mkdir(parents=True)
    options = ",".join(f"{name}dir={partial / name}" for name in names[:3])
    command = ["unshare", "-m", "mount", "-t", "overlay", "-o", options, "none"]
    try:
        tried = subprocess.run([*command, partial / "merged"], capture_output=True)
        return tried.returncode == 0
    except FileNotFoundError:
        return True  # no such commands here: what fails will say so itself
    finally:
        shutil.rmtree(partial)


def _kernel_version() -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(match[1]), int(match[2])) if match else (0, 0)
