"""What a test does to a host, as the commands that the machine is given."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.lab import topology
from appliance.lab.control import Result
from appliance.lab.errors import HarnessError
from appliance.lab.peers import Neighbour
from appliance.site import load

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


class Machine:
    """Takes every command, and keeps it."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.files: dict[str, str] = {}
        self.control = SimpleNamespace(start=self.begin)

    def succeed(self, command: str) -> str:
        self.said.append(command)
        return ""

    def put(self, path: str, text: str) -> None:
        self.files[path] = text

    def begin(self, argv: list[str], **_: Any) -> Any:
        self.said.append(" ".join(argv))
        return Done()


class Done:
    def __enter__(self) -> Done:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def write(self, data: bytes) -> None:
        return

    def close_input(self) -> None:
        return

    def wait(self, _: float) -> Result:
        return Result(0, "", "")


@pytest.fixture
def machine() -> Machine:
    return Machine()


def neighbour(machine: Any, site: str, name: str) -> Neighbour:
    hosts = topology.hosts(load(EXAMPLES / f"{site}.yaml"))
    return Neighbour(machine, next(host for host in hosts if host.name == name))


def test_a_host_is_ailing_until_it_is_healed(machine: Machine) -> None:
    web = neighbour(machine, "web-bundle", "web-1")
    assert not web.ailing
    for harm in (
        lambda: web.stop("nginx"),
        lambda: web.hang("sshd"),
        web.cut,
        lambda: web.health(503),
    ):
        harm()
        assert web.ailing
        web.heal()
        assert not web.ailing
    before = len(machine.said)
    web.heal()
    assert len(machine.said) == before


def test_what_was_started_besides_is_no_ailment_and_ends_with_it(machine: Machine) -> None:
    public = neighbour(machine, "web-bundle", "public")
    public.start("postfix")
    assert not public.ailing
    assert "virtual_transport = virtual\n" in machine.files["/run/lab/hosts/public/postfix/main.cf"]
    with pytest.raises(HarnessError, match="postfix runs already"):
        public.start("postfix")
    public.mail(refuses=True)
    assert public.ailing
    public.heal()
    assert not public.ailing
    assert any("/lab/public/postfix/cgroup.kill" in command for command in machine.said)


def test_a_page_is_changed_and_nginx_told(machine: Machine) -> None:
    web = neighbour(machine, "web-bundle", "web-1")
    web.health(503)
    assert machine.files["/run/lab/hosts/web-1/health.conf"] == (
        'location = /healthz { return 503 "not well\\n"; }\n'
    )
    assert "kill -HUP" in machine.said[-1]
    web.start("postfix")
    web.stop("nginx")
    web.start("nginx")  # with its usual configuration
    assert not web.ailing
