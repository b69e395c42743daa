"""Process ``longshore-lifecycle``; its flags and all else are in daemon.py."""

from __future__ import annotations

import sys

from common import grpcpolling

# asyncio and hashlib load OpenSSL where they find it: 5 MB, for a process that speaks over unix
# sockets and hashes small files. A plugin's https address imports ssl when it is used.
LEFT_OUT = ("ssl", "_hashlib")


def main() -> None:
    for name in LEFT_OUT:
        sys.modules[name] = None  # type: ignore[assignment]
    grpcpolling.load()
    from lifecycle import daemon

    for name in LEFT_OUT:
        del sys.modules[name]
    daemon.main()


if __name__ == "__main__":
    main()
