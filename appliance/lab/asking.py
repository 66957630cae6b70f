"""Asks who serves: each protocol says it in its own way; runs inside a lab host, standard library
only.

`asking JSON`, where the JSON has `protocol`, `to`, `port`, `sources` (addresses to ask from; null
is any), `times`, `seconds` and `key`, prints a list with the name of the host that answered, or
null, for each source so many times. Every question is a new connection.
"""

from __future__ import annotations

import ftplib
import http.client
import json
import os
import smtplib
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product

AT_ONCE = 8
TXT = 16  # RFC 1035, section 3.2.2


@dataclass(frozen=True)
class Question:
    """To whom, from where (None: as the routes have it), and how many seconds it may take."""

    to: str
    port: int
    source: str | None
    seconds: float
    key: str = ""

    def end(self) -> tuple[str, int] | None:
        """The source as sockets want it."""
        return (self.source, 0) if self.source else None


def web(asked: Question) -> str:
    """The text of a page."""
    client = http.client.HTTPConnection(
        asked.to, asked.port, timeout=asked.seconds, source_address=asked.end()
    )
    return page(client)


def secure_web(asked: Question) -> str:
    """The same over TLS, with a certificate that nobody vouches for."""
    context = ssl._create_unverified_context()
    client = http.client.HTTPSConnection(
        asked.to,
        asked.port,
        timeout=asked.seconds,
        source_address=asked.end(),
        context=context,
    )
    return page(client)


def page(client: http.client.HTTPConnection) -> str:
    """Ask on a connection, and end it."""
    try:
        client.request("GET", "/who", headers={"Connection": "close"})
        answer = client.getresponse()
        text = answer.read().decode().strip()
        return text if answer.status == 200 else ""
    finally:
        client.close()


def shell(asked: Question) -> str:
    """A variable that the server sets for its sessions."""
    options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes")
    words = ["ssh", "-F", "none", "-T", "-q", "-i", asked.key, "-p", str(asked.port)]
    words += [word for option in options for word in ("-o", option)]
    words += ["-b", asked.source] if asked.source else []
    argv = [*words, f"root@{asked.to}", "echo $LAB_HOST"]
    done = subprocess.run(
        argv,
        timeout=asked.seconds,
        check=True,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    return done.stdout.strip()


def files(asked: Question) -> str:
    """FTP's greeting."""
    with ftplib.FTP(timeout=asked.seconds) as client:
        client.connect(asked.to, asked.port, source_address=asked.end())
        return client.getwelcome().removeprefix("220 ").strip()


def mail(asked: Question) -> str:
    """SMTP's greeting."""
    with smtplib.SMTP(
        local_hostname="client.lab", timeout=asked.seconds, source_address=asked.end()
    ) as client:
        code, words = client.connect(asked.to, asked.port)
        return words.decode().split()[0] if code == 220 else ""


def names_udp(asked: Question) -> str:
    """A TXT record, over UDP."""
    family = socket.AF_INET6 if ":" in asked.to else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as end:
        end.settimeout(asked.seconds)
        if source := asked.end():
            end.bind(source)
        end.connect((asked.to, asked.port))
        question = query()
        end.send(question)
        return record(question, end.recv(4096))


def names_tcp(asked: Question) -> str:
    """The same over TCP, where two bytes with its length go before a message."""
    target = (asked.to, asked.port)
    with socket.create_connection(target, asked.seconds, source_address=asked.end()) as end:
        question = query()
        end.sendall(struct.pack("!H", len(question)) + question)
        with end.makefile("rb") as answer:
            (length,) = struct.unpack("!H", answer.read(2))
            return record(question, answer.read(length))


def query() -> bytes:
    """A message that asks for the TXT records of `who` (RFC 1035, section 4)."""
    header = os.urandom(2) + struct.pack("!5H", 0, 1, 0, 0, 0)
    return header + b"\x03who\0" + struct.pack("!HH", TXT, 1)


def record(question: bytes, answer: bytes) -> str:
    """The first text of the first record: behind the question, a pointer to its name and ten bytes
    more.
    """
    if answer[:2] != question[:2] or answer[6:8] == b"\0\0":
        return ""
    text = answer[len(question) + 12 :]
    return text[1 : 1 + text[0]].decode()


PROTOCOLS: dict[str, Callable[[Question], str]] = {
    "http": web,
    "https": secure_web,
    "ssh": shell,
    "ftp": files,
    "smtp": mail,
    "dns": names_udp,
    "dns over tcp": names_tcp,
}


def answer(protocol: str, asked: Question) -> str | None:
    """Who answered; None when nobody did, or not in time."""
    try:
        return PROTOCOLS[protocol](asked) or None
    except (OSError, EOFError, struct.error, IndexError, subprocess.SubprocessError):
        return None
    except (ftplib.Error, smtplib.SMTPException, http.client.HTTPException):
        return None


def main() -> None:
    """Ask, several at once, and print the answers in their order."""
    job = json.loads(sys.argv[1])
    common = {"to": job["to"], "port": job["port"], "seconds": job["seconds"], "key": job["key"]}
    every = [
        Question(source=source, **common)
        for source, _ in product(job["sources"], range(job["times"]))
    ]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(lambda asked: answer(job["protocol"], asked), every))
    print(json.dumps(answers), flush=True)


if __name__ == "__main__":
    main()
