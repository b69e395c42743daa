"""``docker run -it``, ``exec -it`` and ``attach`` on a pseudo-terminal."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests import polling
from tests.engine import BUSYBOX, Engine, OwnEngine

# The shell prints the prompt itself, so what it answers is told from the typed line by $((...)).
PROMPT = r"[#$] "


def test_run(engine: Engine) -> None:
    with engine.terminal("run", "--rm", "-it", BUSYBOX, "sh") as terminal:
        terminal.expect(PROMPT)
        terminal.send("echo a$((40 + 2))b; tty\r")
        terminal.expect("a42b\r\n/dev/pts/0")
        terminal.send("exit 5\r")
        assert terminal.wait() == 5


def test_size_is_set_and_follows(engine: Engine) -> None:
    with engine.terminal("run", "--rm", "-it", BUSYBOX, "sh") as terminal:
        terminal.expect(PROMPT)
        # The client sends the size right after the start; the first answers may be older.
        terminal.send("until [ \"$(stty size)\" = '24 80' ]; do :; done; echo now $((20 + 4))\r")
        terminal.expect("now 24")
        terminal.send("until [ \"$(stty size)\" = '30 100' ]; do :; done; echo now $((20 + 10))\r")

        def followed() -> bool:
            # The client listens for the signal only when its first size was answered.
            terminal.resize(30, 100)
            return terminal.shows("now 30")

        polling.until(followed, "the new size")
        terminal.send("exit\r")
        assert terminal.wait() == 0


def test_interrupt_key(engine: Engine, own_engine: OwnEngine) -> None:
    # Another engine may have been started in the background of a shell, which makes it ignore the
    # signal, and pass that on to its containers.
    with engine.terminal("run", "--rm", "-it", BUSYBOX, "sh") as terminal:
        terminal.expect(PROMPT)
        # A signal that comes before the shell forks its command waits for the command's end.
        script = 'trap "echo got $((1+1)); exit 1" INT; echo up $((1+1)); while :; do :; done'
        terminal.send(f"sh -c '{script}'\r")
        terminal.expect("up 2\r\n")
        terminal.send("\x03")
        terminal.expect("got 2\r\n")
        terminal.send("exit 4\r")
        assert terminal.wait() == 4


def test_end_of_input_key(engine: Engine) -> None:
    with engine.terminal("run", "--rm", "-it", BUSYBOX, "cat") as terminal:
        terminal.send("word\r")
        terminal.expect("word\r\nword\r\n")
        terminal.send("\x04")
        assert terminal.wait() == 0


def test_detach_keys_leave_it_running(engine: Engine, name: str) -> None:
    with engine.terminal("run", "-it", "--name", name, BUSYBOX, "sh") as terminal:
        terminal.expect(PROMPT)
        terminal.send("\x10\x11")
        assert terminal.wait() == 0
    assert engine.status(name) == "running"
    with engine.terminal("attach", name) as terminal:
        terminal.send("echo again $((1 + 1))\r")
        terminal.expect("again 2")
        terminal.send("exit 9\r")
        assert terminal.wait() == 9


def test_own_detach_keys(engine: Engine, running: Callable[..., str]) -> None:
    name = running("-it", BUSYBOX, "sh")
    with engine.terminal("attach", "--detach-keys", "ctrl-a,d", name) as terminal:
        terminal.send("echo $((2 + 3))\r")
        terminal.expect("5\r\n")
        terminal.send("\x01d")
        terminal.wait()
    assert engine.status(name) == "running"


def test_exec(engine: Engine, running: Callable[..., str]) -> None:
    name = running(BUSYBOX, "sleep", "100")
    with engine.terminal("exec", "-it", "-e", "X=7", "-w", "/tmp", name, "sh") as terminal:
        terminal.expect(PROMPT)
        terminal.send("echo $((X * 6)) $PWD; stty size\r")
        terminal.expect("42 /tmp\r\n")
        terminal.send("exit 3\r")
        assert terminal.wait() == 3
    assert engine.status(name) == "running"


@pytest.mark.parametrize("command", ["run", "exec"])
def test_output_of_a_terminal_has_its_line_ends(
    engine: Engine, running: Callable[..., str], command: str
) -> None:
    where = ("run", "--rm", "-t", BUSYBOX)
    if command == "exec":
        where = ("exec", "-t", running(BUSYBOX, "sleep", "100"), "env")
    assert engine.docker(*where, "printf", r"a\nb\n").stdout == "a\r\nb\r\n"
