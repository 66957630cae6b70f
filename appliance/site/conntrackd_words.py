"""Names that conntrackd's configuration cannot hold: it has no quotes, and reads these otherwise.

From the lexer of conntrack-tools 1.4.8 (read_config_lex.l).
"""

from __future__ import annotations

import re

_ANY_CASE = {"on", "off", "yes", "no", "alarm", "persistent", "ftfw", "nack", "notrack"}

_WORDS = """
UNIX Interface Multicast UDP TCP HashSize RefreshTime CacheTimeout CommitTimeout HashLimit Path
Backlog Group Port LogFile Syslog LockFile Lockfile General Sync Stats Mode ResendQueueSize
Checksum ACKWindowSize for SYN_SENT SYN_RECV ESTABLISHED FIN_WAIT CLOSE_WAIT LAST_ACK TIME_WAIT
CLOSE CLOSED LISTEN SndSocketBuffer RcvSocketBuffer Filter Protocol Address State Accept Ignore
PurgeTimeout From Userspace Kernelspace Default PollSecs Nice Scheduler Type Priority Options
ExpectationSync Helper QueueNum QueueLen Policy ExpectMax ExpectTimeout Systemd StartupResync
IPv4_address IPv6_address IPv4_interface IPv6_interface
"""


def reads_otherwise(name: str) -> bool:
    """Whether conntrackd takes an interface's name for an address or for a word of its own."""
    hexadecimal = re.fullmatch(r"[0-9A-Fa-f]{1,4}", name)
    return bool(hexadecimal) or name.lower() in _ANY_CASE or name in _WORDS.split()
