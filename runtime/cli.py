"""Library: the commands of ``longshore-runtime``; called by runtime/__main__.py alone.

Thin: each parses its options, calls runtime/container.py, and prints. What exec needs of a
container that another process created is kept beside its state: config.json and the compiled
seccomp filter.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import orjson

from common import atomicfile
from runtime import container, features, foreground, reports, seccomp, spec, template
from runtime.arguments import limits, parser
from runtime.container import State, Status, Stdio
from runtime.errors import NoSuchContainer, RuntimeFailure, WrongStatus
from runtime.spec import Capabilities, InvalidSpec, Process, Spec
from runtime.state import directory, remove
from runtime.terminals import send_master
from runtime.validate import OCI_VERSION

STDIO = Stdio(0, 1, 2)
SECCOMP = "seccomp.bpf"
CONFIG = "config.json"


def main(arguments: Sequence[str]) -> int:
    _open_standard_descriptors()
    options = parser().parse_args(arguments)
    try:
        return _dispatch(options)
    except (RuntimeFailure, InvalidSpec, OSError) as error:
        _complain(options, error)
        return 255 if options.command == "exec" else 1


def _open_standard_descriptors() -> None:
    """A closed one would be given to the first file that is opened, and on to the container."""
    while True:
        fd = os.open("/dev/null", os.O_RDWR)
        if fd > 2:
            os.close(fd)
            return


def _dispatch(options: argparse.Namespace) -> int:
    if options.version:
        print_line(f"longshore-runtime\nspec: {OCI_VERSION}")
        return 0
    if options.systemd_cgroup:
        raise RuntimeFailure("config", "the systemd cgroup driver is not supported, use cgroupfs")
    if options.command not in COMMANDS:
        parser().print_help()
        return 1
    return COMMANDS[options.command](options) or 0


def _complain(options: argparse.Namespace, error: Exception) -> None:
    text = str(error)
    if options.command in ("create", "run", "exec") and isinstance(error, RuntimeFailure):
        unmade = isinstance(error, NoSuchContainer | WrongStatus) or error.step in ("id", "config")
        text = text if unmade else f"unable to start container process: {text}"
    text = f"{options.command} failed: {text}"
    now = datetime.datetime.now(datetime.UTC).astimezone().isoformat(timespec="seconds")
    if options.log:
        line = f'time="{now}" level=error msg={orjson.dumps(text).decode()}\n'
        if options.log_format == "json":
            line = orjson.dumps({"level": "error", "msg": text, "time": now}).decode() + "\n"
        with open(options.log, "a", encoding="utf-8") as log:
            log.write(line)
    sys.stderr.write(f"longshore-runtime {text}\n")


def print_line(text: str) -> None:
    sys.stdout.write(text + "\n")


def _load(options: argparse.Namespace) -> State:
    return container.load(options.root, options.id)


def _config(saved: State) -> Spec:
    """As it was at create; the bundle may have changed since."""
    return spec.parse((Path(saved.directory) / CONFIG).read_bytes())


def _config_or_none(saved: State) -> Spec | None:
    try:
        return _config(saved)
    except FileNotFoundError:
        return None  # a container of the shim, which does its hooks itself


def _create(options: argparse.Namespace, *, detached: bool = True) -> container.InitProcess:
    bundle = options.bundle.absolute()
    content = _read_config(bundle)
    parsed = spec.parse(content)
    terminal = parsed.process.terminal
    if detached and terminal and not options.console_socket:
        raise RuntimeFailure(
            "config", "cannot allocate tty when detaching without setting console socket"
        )
    if options.console_socket and not (terminal and detached):
        raise RuntimeFailure(
            "config", "cannot use console socket without detaching and allocating tty"
        )
    parsed, inherited = _socket_activation(parsed)
    profile = parsed.linux.seccomp
    bpf = seccomp.compile(profile) if profile is not None else None
    made = container.create(
        parsed,
        container_id=options.id,
        bundle=bundle,
        state_root=options.root.absolute(),
        stdio=None if terminal else STDIO,
        seccomp_bpf=bpf,
        detached=detached,
        preserve_fds=options.preserve_fds + inherited,
        no_pivot=options.no_pivot,
    )
    try:
        kept = Path(made.state.directory)
        atomicfile.write(kept / CONFIG, content, durable=False)
        if bpf is not None:
            atomicfile.write(kept / SECCOMP, bpf, durable=False)
        if options.console_socket and made.console is not None:
            send_master(options.console_socket, made.console)
        _write_pid(options.pid_file, made.pid)
    except BaseException:
        container.delete(made.state, force=True)
        raise
    return made


def _read_config(bundle: Path) -> bytes:
    try:
        return (bundle / CONFIG).read_bytes()
    except FileNotFoundError as error:
        text = f"JSON specification file {bundle / CONFIG} not found"
        raise RuntimeFailure("config", text) from error


def _socket_activation(parsed: Spec) -> tuple[Spec, int]:
    """systemd's sockets, for a runtime that a unit starts: descriptors from 3 on."""
    count = int(os.environ.get("LISTEN_FDS", "0") or 0)
    if not count:
        return parsed, 0
    env = (*parsed.process.env, f"LISTEN_FDS={count}", "LISTEN_PID=1")
    return dataclasses.replace(parsed, process=dataclasses.replace(parsed.process, env=env)), count


def _write_pid(path: Path | None, pid: int) -> None:
    if path is not None:
        atomicfile.write(path.absolute(), str(pid).encode(), mode=0o644, durable=False)


def create(options: argparse.Namespace) -> int:
    _create(options)
    return 0


def run(options: argparse.Namespace) -> int:
    made = _create(options, detached=options.detach)
    try:
        if options.detach:
            container.start_detached(made.state, made.spec)
            return 0
        container.start(made)
        return foreground.wait(made.pidfd, made.console)
    finally:
        if not (options.detach or options.keep):
            container.delete(made.state, made.spec, force=True)


def start(options: argparse.Namespace) -> int:
    saved = _load(options)
    if container.status(saved) is Status.STOPPED:
        raise WrongStatus("start", "cannot start a container that has stopped")
    container.start_detached(saved, _config(saved))
    return 0


def exec_(options: argparse.Namespace) -> int:
    saved = _load(options)
    if container.status(saved) is Status.STOPPED:
        raise WrongStatus("exec", "cannot exec in a stopped container")
    config = _config(saved)
    process = _exec_process(options, config)
    detached_console = options.detach and process.terminal
    if detached_console and not options.console_socket:
        raise RuntimeFailure(
            "config", "cannot allocate tty when detaching without setting console socket"
        )
    filter_file = Path(saved.directory) / SECCOMP
    made = container.exec_process(
        saved,
        process,
        stdio=None if process.terminal else STDIO,
        seccomp_bpf=filter_file.read_bytes() if filter_file.exists() else None,
        seccomp=config.linux.seccomp,
        preserve_fds=options.preserve_fds,
        ignore_paused=options.ignore_paused,
    )
    _write_pid(options.pid_file, made.pid)
    if options.console_socket and made.console is not None:
        send_master(options.console_socket, made.console)
        if options.detach:
            return 0
        return foreground.wait(made.pidfd, None)
    return 0 if options.detach else foreground.wait(made.pidfd, made.console)


def _exec_process(options: argparse.Namespace, config: Spec) -> Process:
    if options.process:
        return spec.parse_process(options.process.read_bytes())
    if not options.args:
        raise RuntimeFailure("config", "process args cannot be empty")
    base = config.process
    user = base.user
    if options.user:
        uid, _, gid = options.user.partition(":")
        if not (uid.isascii() and uid.isdigit() and (not gid or (gid.isascii() and gid.isdigit()))):
            raise RuntimeFailure("config", f"parsing {options.user!r} as uid[:gid] failed")
        user = dataclasses.replace(user, uid=int(uid), gid=int(gid) if gid else user.gid)
    gids = (*user.additional_gids, *options.additional_gids)
    return dataclasses.replace(
        base,
        args=tuple(options.args),
        cwd=options.cwd or base.cwd,
        env=(*base.env, *options.env),
        terminal=options.tty,
        user=dataclasses.replace(user, additional_gids=gids),
        capabilities=_with(base.capabilities, tuple(options.cap)),
        no_new_privileges=base.no_new_privileges or options.no_new_privs,
        apparmor_profile=options.apparmor or base.apparmor_profile,
        selinux_label=options.process_label or base.selinux_label,
    )


def _with(base: Capabilities | None, added: tuple[str, ...]) -> Capabilities | None:
    """Never to the inheritable set (CVE-2022-29162)."""
    if not added:
        return base
    base = base or Capabilities()
    return dataclasses.replace(
        base,
        bounding=base.bounding + added,
        effective=base.effective + added,
        permitted=base.permitted + added,
    )


def state(options: argparse.Namespace) -> int:
    print_line(orjson.dumps(reports.state(_load(options)), option=orjson.OPT_INDENT_2).decode())
    return 0


def kill(options: argparse.Namespace) -> int:
    container.kill(_load(options), parse_signal(options.signal), all_processes=options.all)
    return 0


def parse_signal(text: str) -> int:
    """ "9", "KILL", "SIGKILL" or "SIGRTMIN+3"."""
    if text.isdigit():
        number = int(text)
    else:
        name = text.upper().removeprefix("SIG")
        base, _, offset = name.partition("+")
        known = signal.Signals.__members__.get(f"SIG{base}")
        number = known.value + int(offset or 0) if known and offset.isdigit() | (not offset) else 0
    if not 0 < number <= 64:
        raise RuntimeFailure("kill", f"unknown signal {text!r}")
    return number


def delete(options: argparse.Namespace) -> int:
    try:
        saved = _load(options)
    except NoSuchContainer:
        leftover = directory(options.root, options.id)
        if not options.force:
            raise
        remove(leftover)
        return 0
    container.delete(saved, _config_or_none(saved), force=options.force)
    return 0


def pause(options: argparse.Namespace) -> int:
    container.pause(_load(options))
    return 0


def resume(options: argparse.Namespace) -> int:
    container.resume(_load(options))
    return 0


def update(options: argparse.Namespace) -> int:
    if options.resources == "-":
        resources = spec.parse_resources(sys.stdin.buffer.read())
    elif options.resources:
        resources = spec.parse_resources(Path(options.resources).read_bytes())
    else:
        resources = spec.parse_resources(dict(limits(options)))
    container.update(_load(options), resources)
    return 0


def make_spec(options: argparse.Namespace) -> int:
    path = options.bundle / CONFIG
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError as error:
        raise RuntimeFailure("spec", f"file {path} exists. Remove it first") from error
    with open(fd, "wb") as file:
        file.write(template.default_spec())
    return 0


def print_features(_options: argparse.Namespace) -> int:
    print_line(features.document().decode())
    return 0


COMMANDS: dict[str | None, Callable[[argparse.Namespace], int]] = {
    "create": create,
    "run": run,
    "start": start,
    "exec": exec_,
    "state": state,
    "kill": kill,
    "delete": delete,
    "pause": pause,
    "resume": resume,
    "update": update,
    "spec": make_spec,
    "features": print_features,
    "list": reports.list_,
    "ps": reports.ps,
    "events": reports.events,
}
