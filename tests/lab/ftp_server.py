"""An FTP server with every mode, on both loopback addresses, for anybody.

`ftp_server FOLDER PORT [FIRST LAST ADDRESS]`: passive data connections at ports FIRST to LAST, and
ADDRESS as the answer to PASV.
"""

from __future__ import annotations

import sys

from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import MultiprocessFTPServer


def main(folder: str, port: str, *passive: str) -> None:
    class Everybody(DummyAuthorizer):
        """Anonymous users may write: it warns otherwise."""

        def _check_permissions(self, username: str, perm: str) -> None:
            return

    authorizer = Everybody()
    authorizer.add_anonymous(folder, perm="elrw")

    class Handler(FTPHandler):
        pass

    Handler.authorizer = authorizer
    if passive:
        first, last, Handler.masquerade_address = int(passive[0]), int(passive[1]), passive[2]
        Handler.passive_ports = range(first, last + 1)

    class V6(Handler):
        masquerade_address = None
        passive_ports = None

    # A process for each client: with several in one it sometimes misses that one has connected.
    MultiprocessFTPServer(("::1", int(port)), V6)
    MultiprocessFTPServer(("127.0.0.1", int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
