"""The tests that docs/security.md names."""

from __future__ import annotations

import re

from tests.archives import CHECKOUT

NAMED = re.compile(r"((?:unit|root|compat)/test_\w+\.py)?::(test_\w+)")


def test_all_exist() -> None:
    file, found = "", 0
    for line in (CHECKOUT / "docs/security.md").read_text().splitlines():
        for given, name in NAMED.findall(line):
            file = given or file
            source = (CHECKOUT / "tests" / file).read_text()
            assert re.search(rf"^(async )?def {name}\(", source, re.MULTILINE), f"{file}::{name}"
            found += 1
    assert found > 60
