"""The real zygote and shims with busybox containers: output, log, exit, stdin, terminal, attach."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.protocol import ShimError
from tests.polling import until
from tests.root.shim_lab import CGROUP_PARENT, Lab, alive, receive_all

QUEUE_MARGIN = 4 << 20


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("shim"))
    yield lab
    lab.close()


def frames(data: bytes) -> list[tuple[int, bytes]]:
    found = []
    while data:
        stream, size = struct.unpack(">BxxxL", data[:8])
        found.append((stream, data[8 : 8 + size]))
        data = data[8 + size :]
    return found


def test_exit_is_recorded_reported_and_cleaned(lab: Lab) -> None:
    shim = lab.shim()
    client = shim.attach(framed=True)
    shim.subscribe()
    started = shim.start("sh", "-c", "echo out; echo err >&2; exit 3")
    event = shim.event("exit")
    assert (event["exit_code"], event["oom_killed"]) == (3, False)
    assert event["exited_at"] >= started["started_at"]
    record = json.loads((shim.directory / "exit").read_text())
    assert record == {key: event[key] for key in ("exit_code", "oom_killed", "exited_at")}
    assert sorted(frames(receive_all(client))) == [(1, b"out\n"), (2, b"err\n")]
    assert "error" not in shim.event("cleaned")
    shim.gone()
    assert not (lab.exec_root / "runtime" / shim.id).exists()
    assert not list(Path("/sys/fs/cgroup").glob(f"*{CGROUP_PARENT}/{shim.id}"))
    assert not alive(started["pid"])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, 137), (signal.SIGTERM, 143)])
def test_death_by_signal(lab: Lab, number: int, code: int) -> None:
    # Not as init, which would be immune to signals without a handler.
    shim = lab.run("sh", "-c", "trap 'exit 143' TERM; echo ready; while :; do sleep 0.01; done")
    until(lambda: shim.log.exists() and "ready" in shim.log.read_text(), "the trap")
    shim.call("signal", signal=int(number), all=False)
    assert shim.exit_code() == code


def test_quick_containers_lose_nothing(lab: Lab) -> None:
    text = "".join(f"{n}\n" for n in range(200))
    script = "i=0; while [ $i -lt 200 ]; do echo $i; i=$((i+1)); done; exit 7"
    for _ in range(60):
        shim = lab.shim()
        client = shim.attach()
        shim.subscribe()
        shim.start("sh", "-c", script)
        assert shim.exit_code() == 7
        assert shim.log_text() == text
        assert receive_all(client).decode() == text


def test_two_hundred_at_once_in_four_threads(lab: Lab) -> None:
    problems: list[str] = []

    def run() -> None:
        for n in range(35):
            shim = lab.shim()
            client = shim.attach()
            shim.subscribe()
            shim.start("sh", "-c", f"echo {n}; exit {n}")
            code, output = shim.exit_code(), receive_all(client)
            if (code, output) != (n, b"%d\n" % n) or shim.log_text() != f"{n}\n":
                problems.append(f"{shim.id}: {code} {output!r}")

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_many_lines_exactly_once(lab: Lab) -> None:
    shim = lab.shim()
    client = shim.attach()
    shim.subscribe()
    text = " is the number of this line, which is as long as lines often are\n"
    shim.start("seq", "-s", text, "200000")
    expected = text.join(map(str, range(1, 200001))) + "\n"
    assert receive_all(client).decode() == expected
    assert shim.exit_code() == 0
    assert shim.log_text() == expected


def test_rotation_and_compression(lab: Lab) -> None:
    log = {"max_size": 100_000, "max_file": 3, "compress": True}
    shim = lab.run("seq", "20000", log=log)
    assert shim.exit_code() == 0
    shim.gone()
    names = sorted(each.name for each in shim.bundle.iterdir())
    assert names == ["config.json", "json.log", "json.log.1.gz", "json.log.2.gz"]


def test_no_log(lab: Lab) -> None:
    shim = lab.run("echo", "x", log={"driver": "none"})
    assert shim.exit_code() == 0
    assert not shim.log.exists()


def test_program_that_is_not_there(lab: Lab) -> None:
    shim = lab.shim()
    client = shim.attach()
    with pytest.raises(ShimError) as caught:
        shim.start("nope")
    assert caught.value.code == "invalid_argument"
    assert str(caught.value).endswith('exec: "nope": executable file not found in $PATH')
    assert receive_all(client) == b""
    shim.gone()
    assert not (lab.exec_root / "runtime" / shim.id).exists()
    assert not (shim.directory / "exit").exists()


def test_ports_need_descriptors(lab: Lab) -> None:
    shim = lab.shim()
    with pytest.raises(ShimError, match="1 ports, 0 descriptors"):
        shim.start("true", ports=[{"proto": "tcp", "container_ip": "::1", "container_port": 1}])
    assert shim.subscribe()["status"] == "created"


def test_second_start_is_refused(lab: Lab) -> None:
    shim = lab.run("sleep", "100")
    with pytest.raises(ShimError, match="already started"):
        shim.call("start", bundle=str(shim.bundle), state_root=str(lab.exec_root / "runtime"))


def test_abandoned_or_deserted_shims_end(lab: Lab) -> None:
    shim = lab.shim()
    client = shim.attach()
    shim.call("abandon")
    assert receive_all(client) == b""
    shim.gone()
    shim = lab.shim()
    client = shim.attach()
    shim.connection.close()
    assert alive(shim.pid)
    client.close()
    shim.gone()


def test_several_clients(lab: Lab) -> None:
    shim = lab.shim()
    clients = [shim.attach() for _ in range(5)]
    only_stderr = shim.attach(stdout=False)
    shim.start("sh", "-c", "seq 10000; echo err >&2")
    expected = "".join(f"{n}\n" for n in range(1, 10001)).encode()
    for client in clients:
        data = receive_all(client)
        assert data.replace(b"err\n", b"") == expected
    assert receive_all(only_stderr) == b"err\n"


def test_client_that_comes_late_and_one_that_leaves(lab: Lab) -> None:
    shim = lab.run("sh", "-c", "cat; echo end", stdin_open=True, stdin_once=True)
    leaving = shim.attach()
    leaving.close()
    late = shim.attach(stdin=True)
    late.sendall(b"still here\n")
    late.shutdown(socket.SHUT_WR)
    assert receive_all(late) == b"still here\nend\n"
    assert shim.exit_code() == 0


def test_half_close_of_a_large_stdin(lab: Lab) -> None:
    payload = os.urandom(3_000_000)
    shim = lab.shim()
    client = shim.attach(stdin=True, early=payload[:1000])
    shim.subscribe()
    shim.start("cat", stdin_open=True, stdin_once=True, log={"driver": "none"})

    def send() -> None:
        client.sendall(payload[1000:])
        client.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    received = b""
    while piece := client.recv(1 << 16):
        received += piece
    sender.join()
    client.close()
    assert received == payload
    assert shim.exit_code() == 0


def test_stdin_of_a_container_without_stdin_is_at_its_end(lab: Lab) -> None:
    shim = lab.run("cat")
    assert shim.exit_code() == 0


def test_stuck_client_does_not_stop_the_container(lab: Lab) -> None:
    """Its queue and the pipes fill; what fits in them must not need the client at all."""
    shim = lab.shim()
    stuck = shim.attach()
    shim.subscribe()
    shim.start("sh", "-c", "head -c 900000 /dev/zero | tr '\\0' x; echo")
    assert shim.exit_code() == 0
    shim.event("cleaned")
    assert len(receive_all(stuck)) == 900001
    shim.gone()


def test_terminal_resize_and_detach(lab: Lab) -> None:
    shim = lab.shim()
    client = shim.attach(stdin=True, detach_keys=b"\x10\x11")
    shim.subscribe()
    script = "echo ready; while read line; do stty size; echo got $line; done; exit 4"
    shim.start("sh", "-c", script, tty=True, stdin_open=True)
    seen = b""

    def expect(text: bytes, sock: socket.socket) -> None:
        nonlocal seen
        while text not in seen:
            piece = sock.recv(1000)
            assert piece, seen
            seen += piece

    expect(b"ready\r\n", client)
    shim.call("resize", exec_id=None, height=33, width=99)
    client.sendall(b"hello\n")
    expect(b"33 99\r\n", client)
    expect(b"got hello\r\n", client)
    client.sendall(b"a\x10")
    client.sendall(b"\x11b")
    assert shim.event("detach")["exec_id"] is None
    rest = receive_all(client)
    assert b"\x10" not in rest
    second = shim.attach(stdin=True)
    second.sendall(b"c\n")
    expect(b"got ac\r\n", second)
    second.sendall(b"\x04")
    assert shim.exit_code() == 4
    second.close()
    assert "got hello\r\n" in shim.log_text("stdout")


def test_output_of_a_terminal_is_complete(lab: Lab) -> None:
    expected = "".join(f"{n}\r\n" for n in range(1, 3001)).encode()
    for _ in range(10):
        shim = lab.shim()
        client = shim.attach()
        shim.start("seq", "3000", tty=True)
        assert receive_all(client) == expected


def test_exit_while_nobody_is_connected(lab: Lab) -> None:
    shim = lab.run("sh", "-c", "read x; echo $x; exit 9", stdin_open=True, stdin_once=True)
    client = shim.attach(stdin=True)
    shim.connection.close()
    client.sendall(b"go\n")
    assert receive_all(client) == b"go\n"
    shim.gone()
    assert json.loads((shim.directory / "exit").read_text())["exit_code"] == 9


def test_killed_zygote_leaves_the_shims(lab: Lab) -> None:
    shim = lab.run("sh", "-c", "cat; exit 5", stdin_open=True, stdin_once=True)
    lab.stop_zygote()
    shim.reconnect()
    assert shim.subscribe()["status"] == "running"
    client = shim.attach(stdin=True)
    client.sendall(b"on\n")
    client.shutdown(socket.SHUT_WR)
    assert receive_all(client) == b"on\n"
    assert shim.exit_code() == 5
    shim.gone()
    lab.start_zygote()
    assert lab.run("true").exit_code() == 0


def test_pause_and_kill(lab: Lab) -> None:
    shim = lab.run("sleep", "100")
    shim.call("pause")
    assert shim.subscribe()["status"] == "paused"
    shim.call("resume")
    assert shim.subscribe()["status"] == "running"
    shim.call("pause")
    shim.call("signal", signal=int(signal.SIGKILL), all=False)
    assert shim.exit_code() == 137


def test_out_of_memory(lab: Lab) -> None:
    limit = {"resources": {"memory": {"limit": 16 << 20, "swap": 16 << 20}}}
    config = {"linux": {**limit, "namespaces": [{"type": n} for n in ("pid", "uts", "mount")]}}
    shim = lab.run("sh", "-c", "x=x; while :; do x=$x$x; done", config=config)
    event = shim.event("exit")
    assert (event["exit_code"], event["oom_killed"]) == (137, True)
    assert [e["event"] for e in shim.events].index("oom") < shim.events.index(event)


def test_stats(lab: Lab) -> None:
    shim = lab.run("sleep", "100")
    stats = shim.call("stats")
    assert stats["cgroup"]["pids"]["current"] == 1
    assert stats["cgroup"]["memory"]["usage"] > 0
    assert stats["interfaces"] == []


def test_process_left_behind_with_the_pipe(lab: Lab) -> None:
    """Without a pid namespace init's end does not end the others; nobody must wait for them."""
    config = {"linux": {"namespaces": [{"type": n} for n in ("uts", "mount")]}}
    shim = lab.run("sh", "-c", "sleep 1000 & echo $!; exit 6", config=config)
    assert shim.exit_code() == 6
    shim.gone()
    assert not alive(int(shim.log_text()))
