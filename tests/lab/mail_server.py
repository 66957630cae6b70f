"""A mail server on every address that answers each line with assent: `mail_server PORT`."""

from __future__ import annotations

import socket
import socketserver
import sys


class Session(socketserver.StreamRequestHandler):
    """It greets, and has nothing against anything."""

    def handle(self) -> None:
        self.wfile.write(b"220 town ESMTP\r\n")
        for _ in self.rfile:
            self.wfile.write(b"250 so be it\r\n")


class Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6  # IPv4 as well: the kernel maps it
    daemon_threads = True


if __name__ == "__main__":
    Server(("::", int(sys.argv[1])), Session).serve_forever()
