"""Style as tests: formatting, types, sizes, the import arrows of docs/architecture.md, words."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
PACKAGES = ("common", "compat_api", "lifecycle", "shim", "runtime", "images", "networking")
MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 60

# Which packages of ours each may import, besides itself and common; and what it must not load.
ARROWS: dict[str, set[str]] = {
    "common": set(),
    "runtime": set(),
    "shim": {"runtime"},
    "images": set(),
    "networking": set(),
    "lifecycle": {"shim", "runtime", "images", "networking"},
    "compat_api": {"lifecycle._pb", "shim.protocol"},
}
# The zygote is single-threaded and forks; whatever a shim imports is every shim's memory.
SMALL = ("shim/zygote.py", "runtime/__main__.py")
ALLOWED_IN_SMALL = {"orjson", "setproctitle"} | set(sys.stdlib_module_names) - {"asyncio"}


def tracked() -> list[Path]:
    """All files that are, or without a change of .gitignore may become, part of the project."""
    listing = subprocess.run(
        # The checkout may belong to another user than root, who runs the tests.
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "-c", "-o", "--exclude-standard"],
        cwd=CHECKOUT,
        capture_output=True,
        check=True,
    )
    paths = (CHECKOUT / name for name in listing.stdout.decode().split("\0") if name)
    return [path for path in paths if path.is_file()]


@functools.cache
def sources() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text()) for path in tracked() if path.suffix == ".py"}


def relative(path: Path) -> str:
    return str(path.relative_to(CHECKOUT))


def run(*command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=CHECKOUT, capture_output=True, text=True
    )
    if done.returncode:
        pytest.fail(done.stdout + done.stderr, pytrace=False)


def none(problems: Iterable[str]) -> None:
    if found := sorted(problems):
        pytest.fail("\n".join(found), pytrace=False)


def test_ruff_check() -> None:
    run("ruff", "check", "--quiet", ".")


def test_ruff_format() -> None:
    run("ruff", "format", "--check", "--quiet", "--diff", ".")


@pytest.mark.timeout(300)
def test_mypy() -> None:
    run("mypy", "--strict")


def test_files_are_short() -> None:
    none(
        f"{relative(path)}: {lines} lines"
        for path, tree in sources().items()
        if (lines := len(path.read_text().splitlines())) > MAX_FILE_LINES and not is_table(tree)
    )


def is_table(tree: ast.Module) -> bool:
    """Constants only: nothing but assignments, imports and the docstring."""
    plain = (ast.Assign, ast.AnnAssign, ast.Import, ast.ImportFrom, ast.Expr)
    return all(isinstance(node, plain) for node in tree.body)


def test_functions_are_short() -> None:
    none(
        f"{relative(path)}:{node.lineno}: {node.name} has {length} lines"
        for path, tree in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION_LINES
    )


def test_modules_say_what_they_are() -> None:
    none(
        f"{relative(p)}: no docstring"
        for p, tree in sources().items()
        if not ast.get_docstring(tree)
    )


def imports(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports; ``from a import b`` gives ``a.b``."""
    for node in ast.walk(sources()[path]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module}.{alias.name}" for alias in node.names)


def package(path: Path) -> str | None:
    top = relative(path).split("/")[0]
    return top if top in PACKAGES else None


def test_import_arrows() -> None:
    none(
        f"{relative(path)} imports {module}"
        for path in sources()
        if (importer := package(path))
        for module in imports(path)
        if module.split(".")[0] in ("", "tests", "bench", *PACKAGES)
        and not any(
            f"{module}.".startswith(f"{name}.") for name in (importer, "common", *ARROWS[importer])
        )
    )


def closure(programs: tuple[str, ...]) -> dict[Path, str]:
    """Files that are loaded with ``programs``, each with a file that imports it."""
    known = {CHECKOUT / program: "the interpreter" for program in programs}
    todo = list(known)
    while todo:
        importer = todo.pop()
        for module in imports(importer):
            for path in module_files(module):
                if path not in known:
                    known[path] = relative(importer)
                    todo.append(path)
    return known


def module_files(module: str) -> Iterator[Path]:
    """The file of a module of ours, where ``module`` may also name something inside it."""
    for name in (module, module.rpartition(".")[0]):
        stem = CHECKOUT.joinpath(*name.split("."))
        for path in (stem.with_suffix(".py"), stem / "__init__.py"):
            if path in sources() and package(path):
                yield path


def test_shim_and_runtime_load_little() -> None:
    none(
        f"{relative(path)} (loaded by {importer}) imports {module}"
        for path, importer in closure(SMALL).items()
        for module in imports(path)
        if (top := module.split(".")[0]) not in ALLOWED_IN_SMALL and top not in PACKAGES
    )


# Put together from parts, so that this file does not find itself.
WORDS = {
    "unfinished": ("raise Not" + "ImplementedError", r"\bTO" + r"DO\b", r"\bFIX" + r"ME\b"),
    "a path of one machine": ("/wo" + "rk/", "/ro" + r"ot/\.", "longshore-" + "peers"),
    "a package registry's host": (r"\bpypi\." + "org", r"\bdeb\." + r"debian\."),
}


def test_words() -> None:
    problems: list[str] = []
    for path in tracked():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        for why, patterns in WORDS.items():
            found = re.findall("|".join(patterns), text)
            problems += [f"{relative(path)}: {match!r}: {why}" for match in found]
    none(problems)
