"""The program that carries flows, as the host runs it: here on this computer."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from typing import Any

from appliance.lab import traffic


class Traffic:
    """The program with its orders; `it` is the name of a single one."""

    def __init__(self, **orders: dict[str, Any]) -> None:
        argv = [sys.executable, "-m", traffic.__name__, json.dumps(orders)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True)

    def read(self) -> dict[str, Any]:
        assert self.process.stdout
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def ask_all(self, what: str) -> dict[str, dict[str, Any]]:
        assert self.process.stdin
        print(what, file=self.process.stdin, flush=True)
        return self.read()

    def ask(self, what: str) -> dict[str, Any]:
        return self.ask_all(what)["it"]


def run_for(seconds: float) -> None:
    select.select([], [], [], seconds)
