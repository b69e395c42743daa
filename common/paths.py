"""Library: every path that the engine uses below its two roots, in one place.

<data-root>/                  /var/lib/longshore, survives a reboot, mode 0711
  engine-id                   the id that ``docker info`` shows
  lock                        flock'ed by the lifecycle process
  meta.db                     SQLite, WAL: containers, images, networks, volumes
  content/sha256/<digest>     blobs as they came from the registry
  content/ingest/             downloads under way
  snapshots/<id>/{fs,work}    overlayfs layers and the containers' upper directories
  containers/<id>/            hostname, hosts, resolv.conf, <id>-json.log
  volumes/<name>/_data
<exec-root>/                  /run/longshore, gone after a reboot, mode 0711
  lifecycle.sock              gRPC
  streams.sock                bytes that a gRPC call names by a token
  lifecycle.pid
  revisions                   numbers that tell of changes, see common/revisions.py
  names/<network id>/         what containers are called, see namefiles.py
  shims/<id>/                 bundle: config.json; shim.sock; exit
  runtime/<id>/state.json     the OCI runtime's own
  seccomp/<sha256>.bpf        compiled profiles
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DEFAULT_DATA_ROOT = Path("/var/lib/longshore")
DEFAULT_EXEC_ROOT = Path("/run/longshore")


@dataclass(frozen=True, slots=True)
class Paths:
    data_root: Path = DEFAULT_DATA_ROOT
    exec_root: Path = DEFAULT_EXEC_ROOT

    @property
    def database(self) -> Path:
        return self.data_root / "meta.db"

    @property
    def content(self) -> Path:
        return self.data_root / "content"

    @property
    def snapshots(self) -> Path:
        return self.data_root / "snapshots"

    @property
    def volumes(self) -> Path:
        return self.data_root / "volumes"

    def container(self, container_id: str) -> Path:
        return self.data_root / "containers" / container_id

    @property
    def lifecycle_socket(self) -> Path:
        return self.exec_root / "lifecycle.sock"

    @property
    def streams_socket(self) -> Path:
        return self.exec_root / "streams.sock"

    @property
    def lifecycle_pid(self) -> Path:
        return self.exec_root / "lifecycle.pid"

    @property
    def revisions(self) -> Path:
        return self.exec_root / "revisions"

    @property
    def shims(self) -> Path:
        return self.exec_root / "shims"

    def shim(self, container_id: str) -> Path:
        return self.shims / container_id

    @property
    def names(self) -> Path:
        return self.exec_root / "names"

    @property
    def netns(self) -> Path:
        return self.exec_root / "netns"

    @property
    def sockets(self) -> Path:
        return self.exec_root / "joins"

    @property
    def runtime_state(self) -> Path:
        return self.exec_root / "runtime"

    @property
    def seccomp(self) -> Path:
        return self.exec_root / "seccomp"

    @property
    def staging(self) -> Path:
        return self.exec_root / "staging"
