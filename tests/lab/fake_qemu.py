"""Stands in for QEMU: its monitor answers, and a node's agent is the real one, run here.

The peers' agent never speaks, for what it would be told to do is for a machine of its own.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys

from appliance.lab import guest

GREETING = {"QMP": {"version": {"qemu": {"micro": 0, "minor": 0, "major": 10}}, "capabilities": []}}


def main() -> None:
    line = " ".join(sys.argv)
    if "broken" in sys.argv[sys.argv.index("-name") + 1]:
        sys.exit("this machine does not start")
    numbers = {n: int(fd) for n, fd in re.findall(r"socket,id=(\w+),fd=(\d+)", line)}
    if "peers" not in sys.argv:
        control = numbers["control"]
        argv = [sys.executable, "-I", guest.__file__, str(control)]
        subprocess.Popen(argv, pass_fds=[control], stdin=subprocess.DEVNULL)
    socket.socket(fileno=numbers["control"]).close()
    monitor = socket.socket(fileno=numbers["monitor"])
    monitor.sendall(json.dumps(GREETING).encode() + b"\n")
    text = ""
    while data := monitor.recv(4096):  # orders are not separated by anything
        text += data.decode()
        while text.strip():
            order, end = json.JSONDecoder().raw_decode(text)
            text = text[end:].lstrip()
            monitor.sendall(json.dumps({"return": {}, "id": order.get("id")}).encode() + b"\n")


if __name__ == "__main__":
    main()
