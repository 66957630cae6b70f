"""Who answers behind an address: the real server that a client was led to.

assert who(lab.hosts["public-clients"], virtual) in ("web-1", "web-2")
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum

from appliance.lab import daemons, places
from appliance.lab.control import Shell
from appliance.lab.errors import LabAssertion
from appliance.plan.model import Address

ANSWER_WITHIN = 10.0  # seconds; an emulated machine is slow, and SSH has much to compute


class Asked(StrEnum):
    """How to ask."""

    HTTP = "http"
    HTTPS = "https"
    SSH = "ssh"
    FTP = "ftp"
    SMTP = "smtp"
    DNS = "dns"
    DNS_TCP = "dns over tcp"


PORTS = {
    Asked.HTTP: 80,
    Asked.HTTPS: 443,
    Asked.SSH: 22,
    Asked.FTP: 21,
    Asked.SMTP: 25,
    Asked.DNS: 53,
    Asked.DNS_TCP: 53,
}


def who(
    client: Shell, to: Address, how: Asked = Asked.HTTP, *, source: Address | None = None
) -> str:
    """The name of the host that answers a new connection; LabAssertion when nobody does."""
    (name,) = everyone(client, to, how, sources=[source])
    if name is None:
        raise LabAssertion(f"nobody answers {client.name} on {how} of {to}")
    return name


def everyone(
    client: Shell,
    to: Address,
    how: Asked = Asked.HTTP,
    *,
    sources: Sequence[Address | None] = (None,),
    times: int = 1,
    port: int | None = None,
    seconds: float = ANSWER_WITHIN,
) -> list[str | None]:
    """Who answers, for each source so many times by a new connection each; None is nobody within
    so many seconds.
    """
    job = {
        "protocol": how,
        "to": str(to),
        "port": port or PORTS[how],
        "sources": [str(source) if source else None for source in sources],
        "times": times,
        "seconds": seconds,
        "key": places.KEY,
    }
    limit = 60 + seconds * times * len(sources)
    answers: list[str | None] = json.loads(
        client.succeed(daemons.program("asking", json.dumps(job)), timeout=limit)
    )
    return answers
