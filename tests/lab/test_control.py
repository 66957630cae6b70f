"""The control channel: the real agent in a process of its own, at the other end of a socket
pair.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from appliance.lab import guest
from appliance.lab.control import Control, Shell
from appliance.lab.errors import HarnessError, LabAssertion


class Station:
    """An agent and its channel."""

    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair()
        self.control = Control("here", ours)
        self.shell = Shell("here", lambda: self.control)
        self.start()

    def start(self) -> None:
        number = self.theirs.fileno()
        argv = [sys.executable, "-I", guest.__file__, str(number)]
        self.agent = subprocess.Popen(argv, pass_fds=[number])
        self.control.wait_ready(20)

    def close(self) -> None:
        self.agent.kill()
        self.agent.wait()
        self.theirs.close()
        self.control.close()


@pytest.fixture
def station() -> Iterator[Station]:
    station = Station()
    yield station
    station.close()


@pytest.fixture
def shell(station: Station) -> Shell:
    return station.shell


def test_output_errors_and_exit_code_come_back(shell: Shell) -> None:
    result = shell.run("echo out; echo err >&2; exit 3")
    assert (result.out, result.err, result.code) == ("out\n", "err\n", 3)


def test_words_are_passed_as_they_are(shell: Shell) -> None:
    assert shell.succeed(["printf", "%s|", "a b", "$x", "'"]) == "a b|$x|'|"


def test_a_killed_program_has_a_negative_code(shell: Shell) -> None:
    assert shell.run("kill -9 $$").code == -signal.SIGKILL


def test_input_reaches_the_program_and_ends(shell: Shell) -> None:
    assert shell.succeed("cat", stdin=b"typed") == "typed"


def test_large_binary_files_go_both_ways_unchanged(shell: Shell, tmp_path: Path) -> None:
    data = bytes(range(256)) * 8192
    path = str(tmp_path / "deep/er/file")
    shell.put(path, data, 0o640)
    assert Path(path).stat().st_mode & 0o777 == 0o640
    assert shell.get(path) == data


def test_succeed_and_fail_are_the_tests_verbs(shell: Shell) -> None:
    with pytest.raises(LabAssertion, match="exit code 1"):
        shell.succeed("false")
    with pytest.raises(LabAssertion, match="must not"):
        shell.fail("true")
    assert shell.fail("exit 4").code == 4


def test_a_program_that_takes_too_long_is_a_failed_test_and_is_killed(
    shell: Shell, tmp_path: Path
) -> None:
    with pytest.raises(LabAssertion, match=r"still running after 0\.3 s"):
        shell.run(f"echo $$ >{tmp_path}/pid; exec sleep 1000", timeout=0.3)
    shell.wait_until(f"! kill -0 $(cat {tmp_path}/pid)", 10)


def test_a_program_that_is_not_there_is_told(shell: Shell) -> None:
    with pytest.raises(HarnessError, match="no-such-program"):
        shell.run(["no-such-program"])


def test_programs_run_at_the_same_time(shell: Shell) -> None:
    begin = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: shell.succeed("sleep 0.5"), range(8)))
    assert time.monotonic() - begin < 3


def test_output_streams_while_the_program_runs(shell: Shell) -> None:
    with shell.spawn("while read line; do echo got $line; done") as program:
        program.write(b"one\n")
        assert program.line(10) == "got one"
        program.write(b"two\nthree\n")
        assert [program.line(10), program.line(10)] == ["got two", "got three"]
        program.close_input()
        assert program.line(10) is None
        assert program.code == 0


def test_a_daemon_that_keeps_the_output_open_does_not_hold_up_the_answer(shell: Shell) -> None:
    begin = time.monotonic()
    pid = shell.succeed("sleep 30 & echo $!").strip()
    assert time.monotonic() - begin < 5
    os.kill(int(pid), signal.SIGKILL)


def test_a_program_that_ignores_its_input_does_no_harm(shell: Shell) -> None:
    assert shell.succeed("exec <&-; echo done", stdin=b"x" * 1_000_000) == "done\n"


def test_a_terminal_has_a_size_and_passes_keys_on(shell: Shell) -> None:
    with shell.spawn("stty size; exec cat", pty=(33, 101)) as program:
        assert program.line(10) == "33 101\r"
        program.write(b"hi\n")
        assert [program.line(10), program.line(10)] == ["hi\r", "hi\r"]
        program.write(b"\x03")
        assert program.wait(10).code == -signal.SIGINT


def test_wait_until_tells_the_last_state(shell: Shell, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    with pytest.raises(LabAssertion, match=r"not within 0\.3 s.*exit code 1\nnot yet"):
        shell.wait_until("echo not yet; test -e /no/such", timeout=0.3)
    shell.spawn(f"sleep 0.3; touch {flag}")
    shell.wait_until(f"test -e {flag}", 10)


def test_an_agent_that_restarts_fails_what_was_under_way_and_serves_again(
    station: Station,
) -> None:
    program = station.shell.spawn("exec sleep 1000")
    station.agent.kill()
    station.agent.wait()
    station.control.expect_reboot()
    with pytest.raises(HarnessError, match="reset"):
        program.wait(10)
    station.start()
    assert station.shell.succeed("echo again") == "again\n"


def test_a_dead_machine_fails_at_once(station: Station) -> None:
    program = station.shell.spawn("exec sleep 1000")
    station.agent.kill()
    station.agent.wait()
    station.theirs.close()
    with pytest.raises(HarnessError, match="gone"):
        program.wait(10)
    with pytest.raises(HarnessError):
        station.shell.succeed("true")


def test_no_word_of_the_agent_is_a_broken_harness() -> None:
    ours, theirs = socket.socketpair()
    control = Control("mute", ours)
    with pytest.raises(HarnessError, match="mute: no word"):
        control.wait_ready(0.1)
    theirs.close()
    control.close()


def test_nothing_that_was_started_outlives_the_agent(station: Station) -> None:
    with station.shell.spawn("echo $$; exec sleep 1000") as program:
        pid = int(program.line(10) or "")
        station.theirs.close()
        station.control.close()
        station.agent.wait(10)
        end = time.monotonic() + 10
        while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
            os.sched_yield()
        assert not Path(f"/proc/{pid}").exists()
