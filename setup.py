"""Build step of the package: Python code from lifecycle/protos/*.proto into lifecycle/_pb/."""

import runpy
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


def generate() -> None:
    runpy.run_path(str(ROOT / "lifecycle" / "protos" / "generate.py"))["generate"](ROOT)


generate()


class BuildWithProtos(build_py):
    """Generates again, so that a changed .proto file is never built stale."""

    def run(self) -> None:
        generate()
        super().run()


setup(cmdclass={"build_py": BuildWithProtos})
