"""Process ``longshored``: the API that Docker's clients speak; it has dockerd's flags.

Starts longshore-lifecycle first, imports and opens what serves HTTP meanwhile, then answers
requests until SIGTERM, which ends lifecycle too; containers go on. It keeps nothing: killed and
started again, it serves on.
"""

from __future__ import annotations

import asyncio
import fcntl
import gc
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import setproctitle

from common import grpcpolling
from common.paths import DEFAULT_EXEC_ROOT
from compat_api import daemon_log
from compat_api.daemon_config import DaemonConfig, load
from compat_api.daemon_flags import ConfigError, FlagError, help_text
from compat_api.release import NEWEST_TEXT, VERSION
from compat_api.supervisor import Supervisor, log


def main(arguments: Sequence[str] | None = None) -> None:
    try:
        config, actions = load(sys.argv[1:] if arguments is None else arguments)
    except FlagError as error:
        fail(f"{error}\nSee 'longshored --help'.", 125)
    except ConfigError as error:
        fail(str(error), 1)
    if "help" in actions:
        sys.stdout.write(help_text() + "\n")
    elif "version" in actions:
        sys.stdout.write(f"Longshore version {VERSION}, API version {NEWEST_TEXT}\n")
    elif "validate" in actions:
        sys.stderr.write("configuration OK\n")
    else:
        run(config)


def fail(message: str, status: int) -> None:
    sys.stderr.write(f"longshored: {message}\n")
    sys.exit(status)


def run(config: DaemonConfig) -> None:
    options = config.engine
    daemon_log.configure(
        level=options.log_level, debug=options.debug, log_format=options.log_format
    )
    title = "longshored"
    if config.paths.exec_root != DEFAULT_EXEC_ROOT:
        title += f" {config.paths.exec_root}"
    setproctitle.setproctitle(title)
    for warning in config.warnings:
        log.warning("%s", warning)
    supervisor = Supervisor(config.paths, options)
    try:
        lock = lock_exec_root(config.paths.exec_root)
        write_pidfile(config.pidfile)
        try:
            supervisor.end_older()
            supervisor.start()
            status = asyncio.run(serve(config, supervisor))
        finally:
            supervisor.end()
            config.pidfile.unlink(missing_ok=True)
            os.close(lock)
    except ConfigError as error:
        log.critical("failed to start daemon: %s", error)
        sys.exit(1)
    sys.exit(status)


def lock_exec_root(directory: Path) -> int:
    """Held until the process ends: two longshoreds would end each other's lifecycle process."""
    directory.mkdir(mode=0o711, parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(
            f"another longshored runs in {directory}: use another --exec-root"
        ) from None
    return descriptor


def write_pidfile(path: Path) -> None:
    """Refuses while the process that wrote it before runs."""
    try:
        pid = int(path.read_text())
        title = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        pass
    else:
        if pid != os.getpid() and (b"longshored" in title or b"compat_api" in title):
            raise ConfigError(f"process with PID {pid} is still running: see {path}")
    path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    path.write_text(str(os.getpid()))


async def serve(config: DaemonConfig, supervisor: Supervisor) -> int:
    # Imported here: lifecycle starts while these modules, most of the start-up time, are loaded.
    grpcpolling.load()
    from compat_api.app import App
    from compat_api.client import Engine
    from compat_api.listeners import open_listeners, serve_all
    from compat_api.resources import ROUTES

    listeners = open_listeners(config)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload_is_not_supported)
    engine = Engine(config.paths)
    servers = await serve_all(App(engine, ROUTES), listeners, config.tls)
    # What is loaded now stays: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    supervising = asyncio.create_task(supervisor.run(engine.inspections.forget))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((supervising, stopping), return_when=asyncio.FIRST_COMPLETED)
    status = 0 if stopping.done() else 1
    log.info("shutting down")
    for server in servers:
        server.close()
    for listener in listeners:
        if listener.path is not None:
            listener.path.unlink(missing_ok=True)
    # In a thread, because ending the process can take its time and the loop has streams to end.
    await asyncio.to_thread(supervisor.end)
    supervising.cancel()
    stopping.cancel()
    await asyncio.gather(supervising, stopping, return_exceptions=True)
    await engine.close()
    return status


def reload_is_not_supported() -> None:
    log.info("SIGHUP: options are read at the start only; restart longshored, containers go on")


if __name__ == "__main__":
    main()
