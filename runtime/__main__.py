"""The command ``longshore-runtime``: an OCI runtime with runc's command line.

Run from the shell or by another engine. It first becomes a sealed copy of its interpreter, and
imports all else only then, as it would have to import it again.
"""

from __future__ import annotations

import sys

from common.sealed import ensure_sealed


def main() -> None:
    ensure_sealed()
    from runtime import cli

    sys.exit(cli.main(sys.argv[1:]))


if __name__ == "__main__":
    main()
