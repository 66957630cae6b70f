"""The one door to other programs: `run`, which can print each command ready to paste."""

from __future__ import annotations

import logging
import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO

from appliance.errors import ToolError

_commands = logging.getLogger("appliance.commands")

Argument = str | Path


def show_commands() -> None:
    """Print each command from here on, ready to paste, on standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("+ %(message)s"))
    _commands.addHandler(handler)
    _commands.setLevel(logging.INFO)


def pasteable(
    argv: Sequence[Argument], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> str:
    """The command as a line for a shell, with the folder and the variables it needs."""
    words = [f"{name}={shlex.quote(value)}" for name, value in (env or {}).items()]
    words += [shlex.quote(str(word)) for word in argv]
    line = " ".join(words)
    return f"(cd {shlex.quote(str(cwd))} && {line})" if cwd else line


def announce(
    argv: Sequence[Argument], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> None:
    """Show the command where `--verbose` asks for it; for those, too, who start it themselves."""
    _commands.info("%s", pasteable(argv, cwd=cwd, env=env))


@contextmanager
def fed(argv: Sequence[Argument], out: Path) -> Iterator[IO[bytes]]:
    """A program that takes what is written to the pipe, and writes to the file `out`.

    Raises ToolError when it fails or is missing, as `run` does.
    """
    announce(argv)
    with out.open("wb") as sink, tempfile.TemporaryFile() as errors:
        words = [str(word) for word in argv]
        try:
            process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=sink, stderr=errors)
        except FileNotFoundError as missing:
            raise _missing(argv[0], pasteable(argv)) from missing
        assert process.stdin
        with suppress(BrokenPipeError), process:
            yield process.stdin
        errors.seek(0)
        told = errors.read().decode(errors="replace")
    if process.returncode:
        raise _failed(process.returncode, pasteable(argv), told)


def _missing(program: Argument, command: str) -> ToolError:
    return ToolError(f"{program}: program not found", f"needed for: {command}")


def _failed(code: int, command: str, output: str) -> ToolError:
    tail = "\n".join(output.splitlines()[-25:])
    return ToolError(f"exit code {code}: {command}\n{tail}")


def run(
    argv: Sequence[Argument],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | IO[bytes] | None = None,
    timeout: float | None = None,
    log: Path | None = None,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; `env` is added to the environment, `timeout` is in seconds, `stdin`
    is a text or an open file.

    Output is captured, or appended to the file `log` as it comes. Raises ToolError with the command
    to paste and the end of its output when the program fails (unless `check` is off), is missing or
    takes too long.
    """
    announce(argv, cwd=cwd, env=env)
    command = pasteable(argv, cwd=cwd, env=env)
    source = {"input": stdin} if isinstance(stdin, str) else {"stdin": stdin or subprocess.DEVNULL}
    with log.open("a") if log else nullcontext(subprocess.PIPE) as sink:
        try:
            done = subprocess.run(
                [str(word) for word in argv],
                cwd=cwd,
                env={**os.environ, **(env or {})},
                timeout=timeout,
                stdout=sink,
                stderr=subprocess.STDOUT if log else subprocess.PIPE,
                text=True,
                errors="replace",
                check=False,
                **source,
            )
        except FileNotFoundError as missing:
            raise _missing(argv[0], command) from missing
        except subprocess.TimeoutExpired as late:
            raise ToolError(f"no answer within {timeout:g} s: {command}") from late
    if check and done.returncode:
        output = log.read_text(errors="replace") if log else done.stdout + done.stderr
        raise _failed(done.returncode, command, output)
    return done
