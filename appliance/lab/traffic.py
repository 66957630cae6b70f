"""Traffic that knows what an interruption did to it; runs inside a lab host, standard library only.

`python3 -m appliance.lab.traffic KIND JSON` prints `{"ready": true}` once the connection stands,
then one report for each line on its input: `peek` for the figures so far, `stop` (or the end of the
input) for the last. All times come from one monotonic clock, so no clocks need to agree.
"""

from __future__ import annotations

import ftplib
import hashlib
import http.client
import json
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from appliance.lab.meter import Commands, Meter, obey, say
from appliance.lab.paced import DRAIN, SETUP, Command, Datagrams, Paced, Ping, Tcp


def pace(flow: Paced, meter: Meter) -> None:
    """Send at the flow's interval and take answers until the host says stop."""
    flow.open()
    commands = Commands()
    meter.begin()
    say(ready=True)
    due = time.monotonic()
    while True:
        now = time.monotonic()
        pause = None if flow.interval is None else max(0.0, due - now)
        listen = [0, flow.descriptor()] if meter.alive else [0]
        ready = select.select(listen, [], [], pause if meter.alive else None)[0]
        if flow.descriptor() in ready:
            flow.receive()
        if flow.interval is not None and meter.alive and time.monotonic() >= due:
            flow.send()
            due = max(due + flow.interval, now)
        if 0 in ready and not obey(commands, meter):
            break
    flow.finish()


def work(rounds: Callable[[threading.Event], None], meter: Meter) -> None:
    """Have a thread go round while this one listens to the host."""
    stopping = threading.Event()

    def body() -> None:
        try:
            while not stopping.is_set():
                rounds(stopping)
        except (OSError, EOFError, ftplib.Error, http.client.HTTPException) as error:
            meter.died(f"{type(error).__name__}: {error}")

    commands = Commands()
    meter.begin()
    say(ready=True)
    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    while obey(commands, meter):
        pass
    stopping.set()
    thread.join(DRAIN)
    meter.quiet() if meter.alive else None
    if thread.is_alive():
        meter.died(f"still busy {DRAIN:g} s after stop")


def web(meter: Meter, to: str, port: int, source: str | None, interval: float) -> None:
    """A new connection and one request at each interval."""

    def request(stopping: threading.Event) -> None:
        meter.sent += 1
        client = http.client.HTTPConnection(
            to, port, timeout=SETUP, source_address=(source, 0) if source else None
        )
        try:
            client.request("GET", "/")
            answer = client.getresponse()
            meter.whole &= answer.status == 200 and answer.read() == b"lab\n"
            meter.answer()
        except OSError as error:
            meter.note = str(error)
        finally:
            client.close()
        stopping.wait(interval)

    work(request, meter)


def ftp(meter: Meter, to: str, port: int, source: str | None, **how: Any) -> None:
    """One file again and again over one control connection; `rate` in bytes a second."""
    client = ftplib.FTP(timeout=SETUP, source_address=(source, 0) if source else None)
    client.connect(to, port)
    client.login()
    client.set_pasv(how["passive"])

    def transfer(stopping: threading.Event) -> None:
        digest = hashlib.sha256()

        def block(data: bytes) -> None:
            digest.update(data)
            meter.answer(len(data))
            stopping.wait(len(data) / how["rate"])

        meter.sent += client.size(how["file"]) or 0
        client.retrbinary(f"RETR {how['file']}", block)
        meter.whole &= digest.hexdigest() == how["sha256"]

    client.voidcmd("TYPE I")
    work(transfer, meter)


def ssh_argv(to: str, port: int, source: str | None, key: str) -> list[str]:
    """OpenSSH's client as people run it: no keepalive that would hide or cause an end."""
    options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes")
    words = ["ssh", "-F", "none", "-T", "-q", "-i", key, "-p", str(port)]
    words += [word for option in options for word in ("-o", option)]
    return [*words, *(("-b", source) if source else ()), f"root@{to}", "cat"]


def start(kind: str, meter: Meter, options: dict[str, Any]) -> None:
    """Run one kind of traffic to its end."""
    if kind == "http":
        web(meter, **options)
    elif kind == "ftp":
        ftp(meter, **options)
    elif kind == "ssh":
        stream = {name: options.pop(name) for name in ("interval", "size")}
        pace(Command(meter, ssh_argv(**options), **stream), meter)
    elif kind == "command":
        pace(Command(meter, **options), meter)
    else:
        pace({"tcp": Tcp, "udp": Datagrams, "ping": Ping}[kind](meter, **options), meter)


def main() -> None:
    """Run with the arguments of this module's docstring."""
    meter = Meter()
    try:
        start(sys.argv[1], meter, json.loads(sys.argv[2]))
    except OSError as error:
        meter.died(f"never stood: {error}")
    say(**meter.report(), last=True)
    os._exit(0)  # a thread that hangs in a dead connection must not hold up the end


if __name__ == "__main__":
    main()
