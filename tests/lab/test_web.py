"""Questions over one connection, and requests over many: each answer is counted, and looked at."""

from __future__ import annotations

import select
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.lab.carried import Traffic, run_for


class Town:
    """A server that says its name; and who asked."""

    name = "web-1"

    def __init__(self) -> None:
        town = self
        self.clients: set[tuple[str, int]] = set()
        self.patience = threading.Event()
        self.patience.set()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                town.clients.add(self.client_address)
                town.patience.wait()
                text = f"{town.name}\n".encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.port = self.server.server_address[1]


@pytest.fixture
def town() -> Iterator[Town]:
    town = Town()
    yield town
    town.server.shutdown()
    town.server.server_close()


def carry(town: Town, **more: Any) -> Traffic:
    order = {"kind": "http kept", "to": "127.0.0.1", "port": town.port, "interval": 0.02}
    flow = Traffic(it={**order, **more})
    assert flow.read() == {"ready": True}
    return flow


def test_all_requests_go_over_one_connection_from_where_they_should(town: Town) -> None:
    flow = carry(town, source="127.0.0.4")
    run_for(0.5)
    report = flow.ask("stop")
    assert report["alive"]
    assert report["whole"]
    assert report["sent"] == report["received"] > 5
    assert [client[0] for client in town.clients] == ["127.0.0.4"]
    flow.process.communicate()


def test_an_answer_of_another_server_is_found_out(town: Town) -> None:
    flow = carry(town)
    run_for(0.2)
    town.name = "web-2"
    run_for(0.2)
    report = flow.ask("stop")
    assert not report["whole"]
    assert not report["alive"]
    assert "after b'web-1\\n'" in report["note"]
    flow.process.communicate()


def test_a_visit_that_waits_holds_up_no_other(town: Town) -> None:
    order = {"kind": "http", "to": "127.0.0.1", "port": town.port, "interval": 0.02}
    town.name = "lab"
    flow = Traffic(it=order)
    assert flow.read() == {"ready": True}
    run_for(0.3)
    town.patience.clear()
    waiting = flow.ask("peek")
    run_for(0.5)
    stuck = flow.ask("peek")
    town.patience.set()
    report = flow.ask("stop")
    assert stuck["sent"] > waiting["sent"] + 5
    assert stuck["received"] <= waiting["received"] + 2
    assert report["received"] == report["sent"]
    assert 0.4 < report["longest_stall"] < 1.5
    flow.process.communicate()


class Postmaster(socketserver.StreamRequestHandler):
    """Speaks as much SMTP as a session needs, and slowly; whoever says it often enough, or does not
    wait for the answer, is sent away.
    """

    patience = 10**6
    rbufsize = 0  # what was said too early is to be seen

    def handle(self) -> None:
        self.wfile.write(b"220 mail-1 ESMTP\r\n")
        for number, line in enumerate(self.rfile):
            early = bool(select.select([self.connection], [], [], 0.04)[0])
            known = line in (b"HELO client.lab\r\n", b"NOOP\r\n")
            well = known and not early and number < self.patience
            self.wfile.write(b"250 2.0.0 Ok\r\n" if well else b"421 too many errors\r\n")


@pytest.mark.parametrize("patience", [10**6, 5])
def test_a_mail_session_lasts_as_long_as_the_server_assents(
    patience: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Postmaster, "patience", patience)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Postmaster) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        order = {"kind": "smtp", "to": "127.0.0.1", "port": server.server_address[1]}
        flow = Traffic(it={**order, "interval": 0.02})
        assert flow.read() == {"ready": True}
        run_for(0.5)
        report = flow.ask("stop")
        server.shutdown()
    lasted = patience > 100
    assert report["alive"] is report["whole"] is lasted
    assert ("421" in report["note"]) is not lasted
    flow.process.communicate()
