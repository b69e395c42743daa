"""Test support: the virtual machine's kernel and first file system, from Debian's packages.

Nothing is installed on the host but QEMU: the kernel's and busybox's packages are unpacked below
``~/.cache/longshore-vm``.
"""

from __future__ import annotations

import gzip
import os
import platform
import re
import shlex
import shutil
import stat
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
KERNEL_PACKAGE = "linux-image-cloud-amd64"
PACKAGES = ("busybox-static", "apparmor")
BOOT_MODULES = ("virtio_pci", "virtiofs", "overlay")  # unless the kernel has them built in


@dataclass(frozen=True, slots=True)
class Image:
    kernel: Path
    modules: Path  # lib/modules/<release>
    busybox: Path
    apparmor_parser: Path


def cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "longshore-vm"


def prepare() -> Image:
    """Download and unpack what is missing; takes seconds the first time."""
    if platform.machine() != "x86_64" or shutil.which("apt-get") is None:
        raise SystemExit("vm: needs Debian or Ubuntu on x86-64")
    if shutil.which("qemu-system-x86_64") is None:
        run("apt-get", "install", "-qy", "--no-install-recommends", "qemu-system-x86")
    tree = cache() / "tree"
    complete = tree / "complete"  # names what is there
    wanted = "\n".join((KERNEL_PACKAGE, *PACKAGES))
    if not complete.exists() or complete.read_text() != wanted:
        shutil.rmtree(cache(), ignore_errors=True)
        packages = cache() / "packages"
        packages.mkdir(parents=True)
        run("apt-get", "download", "-q", kernel_package(), *PACKAGES, directory=packages)
        for package in packages.iterdir():
            run("dpkg-deb", "-x", str(package), str(tree))
    (kernel,) = (tree / "boot").glob("vmlinuz-*")
    release = kernel.name.removeprefix("vmlinuz-")
    # Since Debian 13 the packages have /usr/lib and /usr/bin instead.
    prefix = tree if (tree / "lib/modules").is_dir() else tree / "usr"
    image = Image(
        kernel,
        prefix / "lib/modules" / release,
        find(tree, "bin/busybox"),
        find(tree, "sbin/apparmor_parser"),
    )
    if not complete.exists():
        run(str(image.busybox), "depmod", "-b", str(prefix), release)
        complete.write_text(wanted)
    return image


def find(tree: Path, name: str) -> Path:
    return next(path for path in (tree / name, tree / "usr" / name) if path.exists())


def kernel_package() -> str:
    """The package with the kernel that the meta package depends on at present."""
    text = run("apt-cache", "depends", KERNEL_PACKAGE)
    match = re.search(r"Depends: (linux-image-\S+)", text)
    if match is None:
        raise SystemExit(f"vm: no {KERNEL_PACKAGE} in the package lists: apt-get update?")
    return match[1]


def run(*command: str, directory: Path | None = None) -> str:
    result = subprocess.run(
        command, cwd=directory, stdout=subprocess.PIPE, text=True, check=False, env=os.environ
    )
    if result.returncode:
        raise SystemExit(f"vm: {shlex.join(command)}: exit status {result.returncode}")
    return result.stdout


def initramfs(image: Image, directory: Path, command: Sequence[str]) -> bytes:
    """A cpio archive whose /init mounts the host's files and runs ``command`` in ``directory``."""
    modules = [image.modules / name for name in insertion_order(image.modules / "modules.dep")]
    init = fill("guest_init.sh", MODULES=" ".join(p.name for p in modules))
    init = init.replace("@KERNEL_MODULES@", str(image.modules))
    init = init.replace("@APPARMOR_PARSER@", str(image.apparmor_parser))
    init = init.replace("@DIRECTORY@", str(directory))
    script = fill("guest_run.sh", DIRECTORY=str(directory), COMMAND=shlex.join(command))
    members = [
        entry(name, stat.S_IFDIR | 0o755) for name in ("dev", "modules", "lower", "layer", "root")
    ]
    members += [
        entry("init", stat.S_IFREG | 0o755, init.encode()),
        entry("guest_run.sh", stat.S_IFREG | 0o644, script.encode()),
        entry("busybox", stat.S_IFREG | 0o755, image.busybox.read_bytes()),
    ]
    members += [
        entry("modules/" + path.name, stat.S_IFREG | 0o644, path.read_bytes()) for path in modules
    ]
    return gzip.compress(b"".join(members) + entry("TRAILER!!!", 0), 1)


def insertion_order(dependencies: Path) -> list[str]:
    """The boot modules and what they need, that first."""
    needs = dict(line.split(":", 1) for line in dependencies.read_text().splitlines())
    order: dict[str, None] = {}

    def add(module: str) -> None:
        for each in needs[module].split():
            add(each)
        order.setdefault(module)

    for module in needs:
        if Path(module).name.partition(".")[0] in BOOT_MODULES:
            add(module)
    return list(order)


def fill(name: str, **values: str) -> str:
    text = (HERE / name).read_text()
    for key, value in values.items():
        text = text.replace(f"@{key}@", value)
    return text


def entry(name: str, mode: int, content: bytes = b"") -> bytes:
    """One member in the kernel's "newc" format (Documentation/driver-api/early-userspace)."""
    # magic; inode, mode, uid, gid, links, mtime, size, 2 of device, 2 of rdev, name's length, check
    fields = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    return padded(header) + padded(content)


def padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
