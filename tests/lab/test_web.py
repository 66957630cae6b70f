"""Requests over one connection: who answers must stay the same, and each answer is counted."""

from __future__ import annotations

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

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                town.clients.add(self.client_address)
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
