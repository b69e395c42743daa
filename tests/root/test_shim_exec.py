"""Exec through the shim: streams, exit codes, order of event and end of output, failures."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator

import pytest

from shim.protocol import ShimError
from tests.polling import until
from tests.root.shim_lab import Lab, Shim, alive, attach_fields, oci_process, receive_all


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("shim-exec"))
    yield lab
    lab.close()


@pytest.fixture(scope="module")
def box(lab: Lab) -> Shim:
    """A container that stays."""
    return lab.run("sleep", "1000")


def test_output_and_exit_code(box: Shim) -> None:
    client = box.exec("sh", "-c", "echo out; echo err >&2; exit 5", exec_id="code", framed=True)
    data = receive_all(client)
    assert b"\x01\0\0\0\0\0\0\x04out\n" in data
    assert b"\x02\0\0\0\0\0\0\x04err\n" in data
    assert box.event("exec_exit", exec_id="code")["exit_code"] == 5


def test_exit_is_told_before_the_output_ends(box: Shim) -> None:
    for n in range(30):
        client = box.exec("true", exec_id=f"order{n}")
        assert client.recv(1) == b""
        client.close()
        box.connection.socket.setblocking(False)
        try:
            assert box.event("exec_exit", exec_id=f"order{n}")["exit_code"] == 0
        finally:
            box.connection.socket.settimeout(20)


def test_half_close(box: Shim) -> None:
    client = box.exec("sh", "-c", "cat; echo end; exit 5", exec_id="half", stdin=True)
    client.sendall(b"text\n")
    client.shutdown(socket.SHUT_WR)
    assert receive_all(client) == b"text\nend\n"
    assert box.event("exec_exit", exec_id="half")["exit_code"] == 5


def test_terminal(box: Shim) -> None:
    client = box.exec(
        "sh", "-c", "read x; stty size; echo got $x", exec_id="tty", tty=True, stdin=True
    )
    box.call("resize", exec_id="tty", height=12, width=34)
    client.sendall(b"y\n")
    assert receive_all(client) == b"y\r\n12 34\r\ngot y\r\n"


def test_signal_death_and_detached(box: Shim) -> None:
    box.exec("sh", "-c", "kill -9 $$", exec_id="killed", attached=False).close()
    assert box.event("exec_exit", exec_id="killed")["exit_code"] == 137


def test_failure_leaves_the_socket_to_the_caller(box: Shim) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        fields = attach_fields(True, True, True, True, b"")
        with pytest.raises(ShimError) as caught:
            box.call(
                "exec", [theirs.fileno()], exec_id="x", process=oci_process(["nope"]), **fields
            )
        assert caught.value.code == "invalid_argument"
        assert 'exec: "nope": executable file not found in $PATH' in str(caught.value)
        theirs.sendall(b"from the caller")
        assert ours.recv(100) == b"from the caller"


def test_background_process_does_not_hold_up_the_end(box: Shim) -> None:
    client = box.exec("sh", "-c", "sleep 1000 & echo started", exec_id="background")
    assert receive_all(client) == b"started\n"  # which waits for 20 s, not 1000
    assert box.event("exec_exit", exec_id="background")["exit_code"] == 0


def test_large_output_of_many_at_once(box: Shim) -> None:
    expected = "".join(f"{n}\n" for n in range(1, 20001)).encode()
    clients = [box.exec("seq", "20000", exec_id=f"many{n}") for n in range(8)]
    results: list[bytes] = []
    threads = [
        threading.Thread(target=lambda c=client: results.append(receive_all(c)))
        for client in clients
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 8


def test_exit_while_nobody_is_subscribed(lab: Lab) -> None:
    shim = lab.run("sleep", "1000")
    client = shim.exec("sh", "-c", "read x; exit 3", exec_id="alone", stdin=True)
    shim.connection.close()
    client.shutdown(socket.SHUT_WR)
    assert receive_all(client) == b""
    shim.reconnect()
    told = shim.subscribe()["execs"]
    assert [(each["exec_id"], each["exit_code"]) for each in told] == [("alone", 3)]
    assert shim.subscribe()["execs"] == []


def test_end_of_the_container_ends_its_execs(lab: Lab) -> None:
    shim = lab.run("sleep", "1000")
    client = shim.exec("sleep", "1000", exec_id="inside")
    shim.call("signal", signal=int(signal.SIGKILL), all=False)
    assert receive_all(client) == b""
    assert shim.event("exec_exit", exec_id="inside")["exit_code"] == 137
    assert shim.exit_code() == 137
    shim.gone()


def test_exec_in_a_paused_or_ended_container(lab: Lab) -> None:
    shim = lab.run("sleep", "1000")
    shim.call("pause")
    with pytest.raises(ShimError, match="paused"):
        shim.exec("true")
    shim.call("resume")
    with pytest.raises(ShimError, match="is not running"):
        lab.shim().exec("true")


def test_nothing_is_left(box: Shim) -> None:
    """Descriptors and children of the shim after many execs and clients that came and went."""

    def descriptors() -> int:
        return len(os.listdir(f"/proc/{box.pid}/fd"))

    def children() -> list[str]:
        with open(f"/proc/{box.pid}/task/{box.pid}/children") as file:
            return file.read().split()

    def settled() -> bool:
        return not [pid for pid in children() if not alive(int(pid))]

    until(settled, "no zombies")
    before, kept = descriptors(), children()
    for n in range(40):
        receive_all(box.exec("true", exec_id=f"leak{n}", tty=n % 2 == 0, stdin=True))
        box.attach(stdin=True).close()
    until(
        lambda: descriptors() <= before,
        "as many descriptors as before",
        explain=lambda: str(
            [os.readlink(f"/proc/{box.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{box.pid}/fd")]
        ),
    )
    until(lambda: children() == kept, "as many children as before")
