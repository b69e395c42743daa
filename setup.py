"""Build step of the package: Python code from lifecycle/protos/*.proto into lifecycle/_pb/."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


def generate() -> None:
    """Run protoc; the proto files are named as they will be imported, so that imports resolve."""
    import sys

    sys.path.insert(0, str(ROOT))
    from lifecycle.protos import generate as protos

    protos.generate(ROOT)


class BuildWithProtos(build_py):
    def run(self) -> None:
        generate()
        # build_py found the packages before the code was there
        self.packages = sorted({*self.packages, "lifecycle._pb"})
        super().run()


setup(cmdclass={"build_py": BuildWithProtos})
