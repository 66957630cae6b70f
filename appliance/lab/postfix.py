"""Postfix on a host: it takes mail for anybody into one mailbox, or passes it on.

Each host has an instance of its own (postconf(5), `-c`), with what a mail needs and nothing that
waits: no name server is asked, no client is counted.
"""

from __future__ import annotations

from collections.abc import Sequence

from appliance.lab.places import MAIL, folder
from appliance.plan.model import Address

MAILBOX_OWNER = 65534  # nobody and nogroup

# A port's queue of connections that none of its programs has taken yet is as long as its number of
# programs or the limit of any service's, whichever is more (master(8) gives it to listen(2)).
_QUEUED, _AT_ONCE = 200, 20

_LIBEXEC = "/usr/lib/postfix/sbin"
# What master(8) expects to find in the queue; the first are the mail system's, the others root's.
_OWN = (
    *("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming"),
    *("private", "public", "maildrop", "saved", "trace"),
)

MAIN = """\
compatibility_level = 3.10
queue_directory = {folder}/queue
data_directory = {folder}/postfix-data
daemon_directory = {libexec}
maillog_file = /dev/stdout
myhostname = {name}
mydestination =
alias_maps =
local_recipient_maps =
mynetworks = 0.0.0.0/0 [::]/0
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_peername_lookup = no
smtpd_client_connection_count_limit = 0
smtpd_junk_command_limit = 1000000
smtpd_timeout = 1d
smtp_dns_support_level = disabled
smtputf8_enable = no
in_flow_delay = 0
default_process_limit = {queued}
minimal_backoff_time = 1s
maximal_backoff_time = 5s
queue_run_delay = 1s
virtual_mailbox_base = {mail}
virtual_mailbox_domains = static:any
virtual_mailbox_maps = static:{name}/
virtual_uid_maps = static:{owner}
virtual_gid_maps = static:{owner}
virtual_transport = {transport}
{refusing}"""

# Said in place of a greeting (RFC 5321 section 3.1: 554), rather than at the first recipient.
_REFUSING = "smtpd_delay_reject = no\nsmtpd_client_restrictions = reject\n"

# master(5): no program is in a chroot, and none is there that a mail does not need.
_SERVICES = """\
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
smtp unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
showq unix n - n - - showq
postlog unix-dgram n - n - 1 postlogd
"""


def config(host: str) -> str:
    """The folder that `-c` names."""
    return f"{folder(host)}/postfix"


def command(host: str) -> str:
    """The one program that starts all others; it stays, and writes its log to its output."""
    return f"env MAIL_CONFIG={config(host)} {_LIBEXEC}/master -s -c {config(host)}"


def files(host: str, ports: Sequence[int]) -> dict[str, str]:
    """Its configuration, taking mail."""
    listening = "".join(f"{port} inet n - n - {_AT_ONCE} smtpd\n" for port in ports)
    own = config(host)
    return {f"{own}/main.cf": main(host), f"{own}/master.cf": listening + _SERVICES}


def main(host: str, *, refuses: bool = False, relay: Address | None = None) -> str:
    """The text of main.cf: it takes mail, refuses everybody by a 554, or passes all mail on."""
    return MAIN.format(
        folder=folder(host),
        libexec=_LIBEXEC,
        name=host,
        mail=MAIL,
        owner=MAILBOX_OWNER,
        queued=_QUEUED,
        transport=f"smtp:[{relay}]:25" if relay else "virtual",
        refusing=_REFUSING if refuses else "",
    )


def prepare(host: str) -> str:
    """The script that makes its folders, as postfix-script(1) would at a usual start."""
    queue = f"{folder(host)}/queue"
    own = " ".join(f"{queue}/{name}" for name in _OWN)
    return f"""\
mkdir -p {queue}/pid {own} {folder(host)}/postfix-data {MAIL}
chown postfix {own} {folder(host)}/postfix-data
chmod 700 {own}
chgrp postdrop {queue}/maildrop {queue}/public
chmod 730 {queue}/maildrop
chmod 710 {queue}/public
chmod 1777 {MAIL}
"""


def master(host: str) -> str:
    """The file with the number of its first process."""
    return f"{folder(host)}/queue/pid/master.pid"
