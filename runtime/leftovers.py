"""Library: ending and removing what a dead supervisor left of a container.

Lifecycle calls this when a shim was killed, or for what it finds at start; never for a container
whose shim lives. Everything is found from the container's id and its state.json.
"""

from __future__ import annotations

import logging
from pathlib import Path

from runtime import cgroups, state

log = logging.getLogger(__name__)


def clean(container_id: str, state_root: Path, cgroup_path: str) -> None:
    """Kill what is left in the container's cgroup, and remove that and its state directory."""
    manager = cgroups.manager(cgroup_path)
    try:
        if manager.exists():
            manager.kill_all()
            manager.delete()
    except (OSError, cgroups.CgroupError) as error:
        log.warning("cleaning the cgroup of %s: %s", container_id, error)
    directory = state.directory(state_root, container_id)
    if directory.exists():
        state.remove(directory)
