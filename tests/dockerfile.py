"""Test support: follows this project's Dockerfile into a directory.

Knows FROM (Debian's bookworm only, made by mmdebstrap from the machine's own mirror), RUN, COPY
from the checkout, ENV, VOLUME and ENTRYPOINT. What comes before the first COPY is kept in .cache/,
by a digest of the instructions, as a builder would.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.archives import CHECKOUT

CACHE = CHECKOUT / ".cache" / "dockerfile"
SOURCES = ("/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list")
SLIM = ("doc", "info", "locale", "man")
BUNDLE = Path("etc/ssl/certs/ca-certificates.crt")
Instruction = tuple[str, str]


def parse(text: str) -> list[Instruction]:
    joined = re.sub(r"\\\n", "", re.sub(r"(?m)^\s*#.*\n", "", text))
    lines = (line.strip() for line in joined.splitlines())
    pairs = (line.partition(" ") for line in lines if line)
    return [(word.upper(), rest.strip()) for word, _, rest in pairs]


class Builder:
    """One build: ``root`` is the image's tree, ``config`` what ``docker import -c`` gets."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config: list[str] = []
        self.environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

    def build(self, instructions: Sequence[Instruction]) -> None:
        start = next(i for i, (word, _) in enumerate(instructions) if word == "COPY")
        cached = CACHE / f"{hashlib.sha256(repr(instructions[:start]).encode()).hexdigest()}.tar"
        if cached.exists():
            subprocess.run(["tar", "-C", self.root, "-xf", cached], check=True)
        else:
            self._follow(instructions[:start])
            CACHE.mkdir(parents=True, exist_ok=True)
            partial = cached.with_suffix(".partial")
            subprocess.run(["tar", "-C", self.root, "-cf", partial, "."], check=True)
            partial.rename(cached)
        self._follow(instructions[start:])

    def _follow(self, instructions: Sequence[Instruction]) -> None:
        for word, rest in instructions:
            match word:
                case "FROM":
                    self._from(rest)
                case "RUN":
                    self._run(rest)
                case "COPY":
                    self._copy(rest)
                case "ENV":
                    name, _, value = rest.partition("=")
                    self.environment[name] = value
                    self.config.append(f"ENV {rest}")
                case "VOLUME" | "ENTRYPOINT":
                    self.config.append(f"{word} {rest}")
                case _:
                    raise ValueError(f"{word} is not known here")

    def _from(self, image: str) -> None:
        if image != "debian:bookworm-slim":
            raise ValueError(f"{image} cannot be made here")
        sources = next(path for path in SOURCES if os.path.exists(path))
        options = [f"--aptopt={line}" for line in apt_settings()]
        # What makes Debian's image slim.
        options += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in SLIM]
        base = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", *options]
        subprocess.run([*base, "bookworm", self.root, sources], check=True)

    def _run(self, command: str) -> None:
        """In a mount namespace with the machine's resolver, certificates and package settings."""
        script = [f"mount -t proc proc {self.root}/proc"]
        binds = [Path("/etc/resolv.conf"), Path("/etc/pip.conf"), *pip_folders()]
        if (self.root / BUNDLE).exists():
            binds.append("/" / BUNDLE)
        made = []
        for source in filter(Path.exists, binds):
            target = self.root / source.relative_to("/")
            if not target.exists():
                made.append(target)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.mkdir() if source.is_dir() else target.touch()
            script.append(f"mount --bind {source} {target}")
        script.append(f'exec chroot {self.root} /bin/sh -c "$0"')
        settings = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        subprocess.run(
            ["unshare", "--mount", "sh", "-ec", "\n".join(script), command],
            env={**self.environment, **settings, "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            check=True,
        )
        for target in made:
            target.rmdir() if target.is_dir() else target.unlink()

    def _copy(self, rest: str) -> None:
        source, target = rest.split()
        lines = (CHECKOUT / ".dockerignore").read_text().split()
        patterns = [line.removeprefix("**/") for line in lines]
        nested = [pattern for pattern in patterns if "/" in pattern]

        def ignored(directory: str, names: list[str]) -> set[str]:
            simple = shutil.ignore_patterns(*patterns)(directory, names)
            here = os.path.relpath(directory, CHECKOUT)
            return simple | {name for name in names if os.path.join(here, name) in nested}

        destination = self.root / target.lstrip("/")
        shutil.copytree(CHECKOUT / source, destination, ignore=ignored, dirs_exist_ok=True)


def apt_settings() -> list[str]:
    """What the machine's apt is told about time stamps and proxies."""
    dump = subprocess.run(
        ["apt-config", "dump", "--no-empty", "--format", '%F "%v";%n', "Acquire"],
        capture_output=True,
        text=True,
        check=True,
    )
    wanted = ("Acquire::Check-", "Acquire::http::Proxy", "Acquire::https::Proxy")
    return [line for line in dump.stdout.splitlines() if line.startswith(wanted)]


def pip_folders() -> list[Path]:
    """Local folders that the machine's pip looks for packages in."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    words = re.findall(r"(?:file://)?(/[^\s'\"]+)", listing.stdout)
    return sorted({Path(word) for word in words if Path(word).is_dir()})
