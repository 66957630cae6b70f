"""Sends mail and says which of it was accepted; runs inside a lab host, standard library only.

`mailing JSON`, where the JSON has `to`, `port`, `sources` (addresses; null is any) and `seconds`,
sends one message after another from each source, a connection each. For each line on its input it
prints all by their ids, with null or why it was not accepted: `peek` for those until now, `stop`
(or the end of the input) for all, after those on their way.
"""

from __future__ import annotations

import json
import secrets
import smtplib
import sys
import threading

from appliance.lab.meter import say, words

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
    """Send until told to stop."""
    job = json.loads(sys.argv[1])
    fates: dict[str, str | None] = {}
    stop = threading.Event()

    def work(source: str | None) -> None:
        while not stop.is_set():
            identity = f"{secrets.token_hex(8)}@lab.example"
            fates[identity] = send(job["to"], job["port"], source, identity, job["seconds"])

    threads = [threading.Thread(target=work, args=[source]) for source in job["sources"]]
    for thread in threads:
        thread.start()
    for word in words():
        if word == "stop":
            break
        say(dict(fates))
    stop.set()
    for thread in threads:
        thread.join()
    say(fates)


if __name__ == "__main__":
    main()
