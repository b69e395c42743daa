"""Process ``longshore-zygote``: ``python -m shim.zygote FD EXEC_ROOT``, started by lifecycle.

FD is its end of a SOCK_SEQPACKET socketpair. It first executes itself anew from a sealed copy of
the interpreter, so that no container can reach the one on disk through /proc/self/exe; what comes
then is in forkserver.py, which is imported only there, because importing takes longer than all
the rest.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from common.paths import DEFAULT_EXEC_ROOT
from common.sealed import ensure_sealed


def main() -> None:
    fd = int(sys.argv[1])
    os.set_inheritable(fd, True)
    ensure_sealed()
    # A container that had this descriptor could ask for shims.
    os.set_inheritable(fd, False)
    from shim import forkserver
    from shim.protocol import Connection

    exec_root = Path(sys.argv[2]) if len(sys.argv) > 2 else DEFAULT_EXEC_ROOT
    forkserver.run(Connection(socket.socket(fileno=fd)), exec_root)


if __name__ == "__main__":
    main()
