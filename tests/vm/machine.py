"""Test support: boots the virtual machine, passes on its output, and gives its exit status.

The guest sees the host's files through virtiofs, read-only; what it writes is in its memory.
"""

from __future__ import annotations

import compileall
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.polling import until
from tests.vm import image

MEMORY = "3G"
VIRTIOFSD = ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd")


def run(directory: Path, command: Sequence[str], timeout: float) -> int:
    """``command``'s exit status; 125 where the machine did not come that far."""
    prepared = image.prepare()
    # The guest cannot write what it compiles, and would do so for each process anew.
    compileall.compile_dir(directory, quiet=2, rx=re.compile(r"/\.[^/]+/"))
    with tempfile.TemporaryDirectory(prefix="longshore-vm-") as name:
        scratch = Path(name)
        initrd = scratch / "initrd"
        initrd.write_bytes(image.initramfs(prepared, directory, command))
        server = share_files(scratch / "files.sock", scratch / "files.log")
        try:
            subprocess.run(
                qemu(scratch, prepared.kernel, initrd),
                stdin=subprocess.DEVNULL,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            print(f"vm: no end after {timeout:g} s", file=sys.stderr)
        finally:
            server.kill()
            server.wait()
        status = scratch / "status"
        text = status.read_text().strip() if status.exists() else ""
        if not text.isdigit():
            for log in (scratch / "files.log", scratch / "console"):
                if log.exists():
                    print(log.read_text(errors="replace"), file=sys.stderr)
            return 125
        return int(text)


def share_files(socket: Path, log: Path) -> subprocess.Popen[bytes]:
    daemon = next((path for path in VIRTIOFSD if Path(path).exists()), None)
    if daemon is None:
        raise SystemExit("vm: virtiofsd is missing: apt-get install virtiofsd")
    options = ("source=/", "cache=always", "sandbox=chroot")
    arguments = [word for option in options for word in ("-o", option)]
    with log.open("wb") as output:
        server = subprocess.Popen([daemon, f"--socket-path={socket}", *arguments], stderr=output)
    until(lambda: socket.exists() or server.poll() is not None, "virtiofsd's socket")
    return server


def qemu(scratch: Path, kernel: Path, initrd: Path) -> list[str]:
    return [
        *("qemu-system-x86_64", "-nodefaults", "-display", "none", "-no-reboot"),
        # Not KVM: it is there on some hosts that are virtual machines themselves, and hangs.
        *("-accel", "tcg,thread=multi", "-cpu", "max,arch-capabilities=off", "-smp", "2"),
        # virtiofs serves the guest's memory from another process.
        *("-m", MEMORY, "-object", f"memory-backend-memfd,id=memory,size={MEMORY},share=on"),
        *("-machine", "q35,memory-backend=memory"),
        *("-chardev", f"socket,id=files,path={scratch / 'files.sock'}"),
        *("-device", "vhost-user-fs-pci,chardev=files,tag=host"),
        *("-serial", f"file:{scratch / 'console'}"),
        *("-serial", "stdio"),
        *("-serial", f"file:{scratch / 'status'}"),
        *("-kernel", str(kernel), "-initrd", str(initrd)),
        # A machine that is busy elsewhere is slower than the kernel's check of its timer allows.
        *("-append", "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check"),
    ]
