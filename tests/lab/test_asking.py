"""Who answers, and mail, asked of servers on loopback that say what the lab's real servers say."""

from __future__ import annotations

import json
import socket
import socketserver
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from appliance.lab import asking, mail, mailing, probe
from appliance.lab.asking import Question, answer
from appliance.lab.mail import Sent


class Server(socketserver.ThreadingTCPServer):
    """For each connection the given lines; what the client says in between is kept."""

    daemon_threads = True
    allow_reuse_address = True


class Datagrams(socketserver.ThreadingUDPServer):
    daemon_threads = True


@contextmanager
def serving(talk: Callable[[Any], None], kind: type[socketserver.BaseServer]) -> Iterator[int]:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            talk(self)

    with kind(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def ask(protocol: str, port: int, source: str | None = None) -> str | None:
    return answer(protocol, Question("127.0.0.1", port, source, 2.0))


def page(status: str, text: str) -> Callable[[Any], None]:
    def talk(handler: Any) -> None:
        handler.request.recv(4096)
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(text)}\r\n\r\n"
        handler.request.sendall((head + text).encode())

    return talk


def test_the_name_is_in_the_page() -> None:
    with serving(page("200 OK", "web-1\n"), Server) as port:
        assert ask("http", port) == "web-1"
    with serving(page("503 Ill", "web-1\n"), Server) as port:
        assert ask("http", port) is None
    assert ask("http", port) is None  # nobody is there any more


def test_the_name_is_in_the_greeting_and_the_question_comes_from_where_it_should() -> None:
    seen = []

    def talk(handler: Any) -> None:
        seen.append(handler.client_address[0])
        handler.request.sendall(b"220 web-2 ESMTP Postfix\r\n")
        handler.request.recv(4096)
        handler.request.sendall(b"221 bye\r\n")

    with serving(talk, Server) as port:
        assert ask("smtp", port, "127.0.0.3") == "web-2"
    assert seen == ["127.0.0.3"]
    with serving(lambda h: h.request.sendall(b"220 web-2\r\n"), Server) as port:
        assert ask("ftp", port) == "web-2"
    with serving(lambda h: h.request.sendall(b"554 web-2 no\r\n"), Server) as port:
        assert ask("smtp", port) is None


def record(question: bytes, name: bytes) -> bytes:
    """An answer with one TXT record, whose name is a pointer to that of the question."""
    data = bytes([len(name)]) + name
    header = question[:2] + struct.pack("!5H", 0x8400, 1, 1, 0, 0)
    fixed = struct.pack("!HHHIH", 0xC00C, 16, 1, 60, len(data))
    return header + question[12:] + fixed + data


def test_the_name_is_in_a_txt_record() -> None:
    def datagram(handler: Any) -> None:
        question, end = handler.request
        end.sendto(record(question, b"dns-1"), handler.client_address)

    def stream(handler: Any) -> None:
        question = handler.request.recv(4096)[2:]
        said = record(question, b"dns-2")
        handler.request.sendall(struct.pack("!H", len(said)) + said)

    with serving(datagram, Datagrams) as port:
        assert ask("dns", port) == "dns-1"
    with serving(stream, Server) as port:
        assert ask("dns over tcp", port) == "dns-2"


def test_a_probe_of_a_name_server_is_a_question_that_it_repeats() -> None:
    question = probe.datagram(53, b"0123456789abcdef")

    def repeat(handler: Any) -> None:
        asked, end = handler.request
        end.sendto(record(asked, b"dns-1"), handler.client_address)

    with serving(repeat, Datagrams) as port, socket.socket(type=socket.SOCK_DGRAM) as end:
        end.connect(("127.0.0.1", port))
        target = ("127.0.0.1", port)
        assert probe.send_datagram(end, target, question, question[13:29], 2) == "answered"
        assert probe.send_datagram(end, target, question, b"other", 0.2) == "silent"
    assert probe.datagram(514, b"token") == b"token"


def test_a_refusal_by_dns_is_no_answer() -> None:
    def refuse(handler: Any) -> None:
        question, end = handler.request
        end.sendto(question[:2] + b"\x80\x05" + question[4:], handler.client_address)

    with serving(refuse, Datagrams) as port:
        assert ask("dns", port) is None


def test_the_program_asks_each_source_as_often_as_told() -> None:
    seen = []

    def talk(handler: Any) -> None:
        seen.append(handler.client_address[0])
        page("200 OK", "web-1\n")(handler)

    with serving(talk, Server) as port:
        job = {"protocol": "http", "to": "127.0.0.1", "port": port, "seconds": 5, "key": ""}
        job |= {"sources": ["127.0.0.2", None], "times": 2}
        argv = [sys.executable, "-m", asking.__name__, json.dumps(job)]
        done = subprocess.run(argv, check=True, capture_output=True)
    assert json.loads(done.stdout) == ["web-1"] * 4
    assert sorted(seen) == ["127.0.0.1"] * 2 + ["127.0.0.2"] * 2


def postman(final: bytes) -> Callable[[Any], None]:
    """Just enough of RFC 5321: `final` answers a message's end."""

    def talk(handler: Any) -> None:
        lines = handler.request.makefile("rb")
        handler.request.sendall(b"220 mail-1\r\n")
        for line in lines:
            word = line[:4].upper().strip()
            if word == b"DATA":
                handler.request.sendall(b"354 go on\r\n")
                while next(lines).strip() != b".":
                    pass
                if not final:
                    return
                handler.request.sendall(final)
            else:
                handler.request.sendall(b"221 bye\r\n" if word == b"QUIT" else b"250 ok\r\n")

    return talk


@pytest.mark.parametrize(
    ("final", "why"),
    [(b"250 ok\r\n", ""), (b"451 later\r\n", "SMTPDataError"), (b"", "disconnected")],
)
def test_a_message_is_accepted_only_by_the_answer_to_its_end(final: bytes, why: str) -> None:
    with serving(postman(final), Server) as port:
        told = mailing.send("127.0.0.1", port, None, "one@lab.example", 5)
    assert (told or "").startswith(why)
    assert bool(told) is bool(why)


class Box:
    """A host with a mailbox, as far as it is looked into."""

    def __init__(self, name: str, *ids: str) -> None:
        self.name = name
        self.text = "".join(f"Message-ID: <{each}>\n" for each in ids)

    def succeed(self, command: str) -> str:
        assert f"/{self.name}/new" in command
        return self.text


def test_what_is_missing_doubled_or_unasked_is_told() -> None:
    sent = Sent(("a@x", "b@x", "c@x"), {"d@x": "disconnected"})
    boxes: Any = [Box("mail-1", "a@x", "b@x"), Box("mail-2", "b@x", "d@x", "z@x")]
    found = mail.delivery(boxes, sent)
    assert found.on == {"mail-1": 2, "mail-2": 1}
    assert found.missing == ("c@x",)
    assert found.doubled == ("b@x",)
    assert found.unasked == ("d@x",)
    assert not found.complete
    with pytest.raises(AssertionError, match=r"doubled: \['b@x'\]"):
        mail.wait_delivered(boxes, sent)
    assert mail.wait_delivered(boxes, Sent(("a@x", "z@x"), {})).complete
