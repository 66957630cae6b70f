"""Sends mail and says which of it was accepted; runs inside a lab host, standard library only.

`mailing JSON`, where the JSON has `to`, `port`, `sources` (addresses to send from in turn; null is
any), `ids`, `seconds` and `interval`, sends a message for each of the ids, a connection each, and
prints a list of `[id, null]` or `[id, why it was not accepted]`.
"""

from __future__ import annotations

import json
import select
import smtplib
import sys
from itertools import cycle

SENDER = "tester@lab.example"
RECIPIENT = "anybody@example.net"


def send(to: str, port: int, source: str | None, identity: str, seconds: float) -> str | None:
    """Send one message; None once the server has taken the duty for it (RFC 5321, section 4.2.5).

    Whoever loses the connection before that cannot know, and would have to send it again.
    """
    text = f"From: {SENDER}\nTo: {RECIPIENT}\nSubject: lab\nMessage-ID: <{identity}>\n\nlab\n"
    try:
        end = (source, 0) if source else None
        with smtplib.SMTP(to, port, "client.lab", seconds, end) as client:
            client.sendmail(SENDER, [RECIPIENT], text)
    except smtplib.SMTPServerDisconnected as gone:
        return f"disconnected: {gone}"
    except (OSError, smtplib.SMTPException) as error:
        return f"{type(error).__name__}: {error}"
    return None


def main() -> None:
    """Send all, so many seconds apart."""
    job = json.loads(sys.argv[1])
    fates = []
    for identity, source in zip(job["ids"], cycle(job["sources"]), strict=False):
        fates.append([identity, send(job["to"], job["port"], source, identity, job["seconds"])])
        select.select([], [], [], job["interval"])
    print(json.dumps(fates), flush=True)


if __name__ == "__main__":
    main()
