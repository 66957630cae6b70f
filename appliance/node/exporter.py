"""Serves the metrics over HTTP: `python3 -m appliance.node.exporter SOCKET`.

It speaks to the network, so it may do nothing else: what there is to tell it hears from
`appliance.node.collect` over a UNIX socket. Where it listens is in /etc/appliance/metrics.json.
"""

from __future__ import annotations

import json
import socket
import socketserver
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

from appliance.node.metrics import exposition

CONFIG = Path("/etc/appliance/metrics.json")
_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PATIENCE_S = 10.0


class Server(ThreadingHTTPServer):
    """Listens on one address; `source` is the collector's socket."""

    daemon_threads = True

    def __init__(self, address: str, port: int, source: Path) -> None:
        version = ip_address(address).version
        self.address_family = socket.AF_INET if version == 4 else socket.AF_INET6
        self.source = source
        super().__init__((address, port), Handler)

    def server_bind(self) -> None:
        """Bind; HTTPServer's own would look its name up first, and a router may know no names."""
        socketserver.TCPServer.server_bind(self)
        host, port, *_ = self.server_address
        self.server_name, self.server_port = str(host), int(port)


class Handler(BaseHTTPRequestHandler):
    """One request; a client that dawdles is left."""

    server: Server
    timeout = _PATIENCE_S
    server_version = "appliance"
    sys_version = ""

    def do_GET(self) -> None:
        """The metrics, or 503 when nothing can be learned now."""
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(HTTPStatus.NOT_FOUND, "the metrics are at /metrics")
            return
        try:
            body = exposition(json.loads(_ask(self.server.source))).encode()
        except (OSError, ValueError) as error:
            self.send_error(
                HTTPStatus.SERVICE_UNAVAILABLE, f"no answer from the collector: {error}"
            )
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", _TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """A scrape is no news."""


def _ask(source: Path) -> bytes:
    answer = bytearray()
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(_PATIENCE_S)
        link.connect(str(source))
        while piece := link.recv(65536):
            answer += piece
    return bytes(answer)


def main(argv: list[str]) -> None:
    """Serve on every address for ever; the optional second argument is the path of the config."""
    config = json.loads((Path(argv[2]) if len(argv) > 2 else CONFIG).read_text())
    servers = [Server(each, config["port"], Path(argv[1])) for each in config["addresses"]]
    threads = [threading.Thread(target=each.serve_forever) for each in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(sys.argv)
