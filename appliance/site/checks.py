"""The schema of a virtual service's `check`: how the health of a real server is known."""

from __future__ import annotations

import re
import warnings
from typing import Annotated

from pydantic import BeforeValidator

from appliance.plan.virtual import RecordType
from appliance.site import values as v
from appliance.site.closed import Closed
from appliance.site.scalars import Maybe, Some, block, found, one_of, refuse, scalar
from appliance.site.words import quote

# keepalived reads lines of 1024 bytes (MAXBUF in its parser.h).
LONGEST_TEXT = 300
LONGEST_PAYLOAD = 256  # bytes

# Escapes and flags of Python alone, names of classes, and counts from 10000 (PCRE2 ends at 65535).
_NOT_PCRE = re.compile(r"\\[uU]|\(\?[a-z-]*[uL]|\[:|\{[0-9,]*[0-9]{5}")


def _time(text: str) -> int:
    """Milliseconds, from 100 to an hour."""
    matched = re.fullmatch(r"([0-9]{1,7})(?:\.([0-9]{1,3}))?(ms|s)", text)
    if not matched:
        raise refuse(f"{quote(text)} is not a time", "write it as in 500ms or 2s")
    thousandths = int(matched[1]) * 1000 + int((matched[2] or "").ljust(3, "0"))
    ms, rest = (thousandths, 0) if matched[3] == "s" else divmod(thousandths, 1000)
    if rest or not 100 <= ms <= 3_600_000:
        raise refuse(f"{quote(text)} is not a time from 100ms to 3600s in whole milliseconds")
    return ms


def _path(text: str) -> str:
    # What RFC 3986 lets stand in a path and query, less what keepalived's parser reads otherwise.
    if not re.fullmatch(r"/[A-Za-z0-9/._~%?&=+,;:@()*-]*", text) or len(text) > LONGEST_TEXT:
        raise refuse(f"{quote(text)} is no path", "it begins with '/'; write odd characters as %20")
    return text


def _host_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252})(:[0-9]{1,5})?", text):
        raise refuse(f"{quote(text)} is no host name")
    return text


def _status(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    if not re.fullmatch(r"[1-5][0-9]{2}(-[1-5][0-9]{2})?", text) or int(last or first) < int(first):
        raise refuse(f"{quote(text)} is no HTTP status", "write it as in 200 or 200-299")
    return int(first), int(last or first)


def _digest(text: str) -> str:
    if not re.fullmatch(r"[0-9A-Fa-f]{32}", text):
        hint = "what md5sum prints of the page: 32 hexadecimal digits"
        raise refuse(f"{quote(text)} is no MD5 digest", hint)
    return text.lower()


def _regex(text: str) -> str:
    """A regular expression that keepalived's parser hands on whole.

    It is PCRE2's. Python's is close to it: of random ones that Python takes, PCRE2 takes all, but
    for what is refused by name.
    """
    if not text.isascii() or not text or len(text) > LONGEST_TEXT:
        raise refuse(f"a regular expression is of 1 to {LONGEST_TEXT} ASCII characters")
    if re.search(r"\$[_{]", text):
        raise refuse("keepalived takes '$_' and '${' for its own", "write [$]_ or [$]{")
    if odd := _NOT_PCRE.search(text):
        raise refuse(f"{quote(odd[0])} means something else to PCRE2, or nothing")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(text)
    except (re.error, OverflowError, RecursionError) as wrong:
        raise refuse(f"{quote(text)} is no regular expression: {wrong}") from None
    return text


def _domain(text: str) -> str:
    """A name as DNS has it (RFC 1035 section 2.3.1), underscores allowed; `.` is the root."""
    label = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
    if text != "." and not re.fullmatch(rf"{label}(\.{label})*\.?", text):
        raise refuse(f"{quote(text)} is no domain name")
    if len(text) > 253:
        raise refuse(f"domain name {quote(text)} is longer than 253 characters")
    return text


def _payload(text: str) -> str:
    if not re.fullmatch(r"([0-9A-Fa-f]{2})+", text) or len(text) > 2 * LONGEST_PAYLOAD:
        hint = f"hexadecimal digits, two for each of at most {LONGEST_PAYLOAD} bytes"
        raise refuse(f"{quote(text)} is no payload", hint)
    return text.lower()


def _script(text: str) -> str:
    if not text.strip():
        raise refuse("the script is empty")
    return text


def _blank_is_plain(value: object) -> object:
    """`ping:` and `ping: {}` are the same."""
    if value is not None and not isinstance(value, dict):
        raise refuse(f"expected a mapping, found {found(value)}")
    return value or {}


BlankKind = BeforeValidator(_blank_is_plain)

Time = Annotated[int, scalar("a time", _time)]
CheckedPort = Annotated[int, scalar("a port number", v.number("port", 1, 65535))]
Retries = Annotated[int, scalar("a number", v.number("retries", 0, 100))]
Path = Annotated[str, scalar("a path", _path)]
HostName = Annotated[str, scalar("a host name", _host_name)]
Status = Annotated[tuple[int, int], scalar("an HTTP status", _status)]
Digest = Annotated[str, scalar("an MD5 digest", _digest)]
Regex = Annotated[str, scalar("a regular expression", _regex)]
Domain = Annotated[str, scalar("a domain name", _domain)]
RecordTypeWord = Annotated[RecordType, one_of("a record type", RecordType)]
Payload = Annotated[str, scalar("a payload", _payload)]
Script = Annotated[str, block("a script", _script)]


class Http(Closed):
    """A page, and what it must be."""

    path: Path = "/"
    status: Maybe[Some[Status]] = None
    digest: Maybe[Digest] = None
    regex: Maybe[Regex] = None
    virtual_host: Maybe[HostName] = None


class Smtp(Closed):
    """A mail server's greeting."""

    helo: Maybe[HostName] = None


class Dns(Closed):
    """A question to a name server."""

    name: Domain = "."
    type: RecordTypeWord = RecordType.SOA


class Udp(Closed):
    """A datagram."""

    payload: Maybe[Payload] = None


class Ping(Closed):
    """An echo request, which has nothing to say about itself."""


class Check(Closed):
    """One kind of check, and when it is made."""

    tcp: Maybe[CheckedPort] = None
    http: Annotated[Http | None, BlankKind] = None
    https: Annotated[Http | None, BlankKind] = None
    smtp: Annotated[Smtp | None, BlankKind] = None
    dns: Annotated[Dns | None, BlankKind] = None
    udp: Annotated[Udp | None, BlankKind] = None
    ping: Annotated[Ping | None, BlankKind] = None
    script: Maybe[Script] = None

    port: Maybe[CheckedPort] = None
    interval: Time = 5_000
    timeout: Maybe[Time] = None
    retries: Retries = 2
    delay_retry: Time = 1_000
