"""The kernel takes back an expectation that it gave out, and leads the data connection by it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from appliance.node import ctnetlink, kernel
from appliance.node.ctnetlink import Expectation
from tests.node.ftp import SMALL, Client, Mode
from tests.node.netns import inside
from tests.node.record import CASES, routed

MODES = [(case, mode) for case, (_, _, modes) in CASES.items() for mode in modes]


@pytest.fixture(scope="module")
def prefix() -> Iterator[str]:
    with routed(f"x{os.getpid()}") as prefix:
        yield prefix


def agreed(prefix: str, case: str, mode: Mode) -> tuple[Client, Expectation]:
    """A client that waits, and its expectation, which is no longer in the kernel."""
    side, host, _ = CASES[case]
    client = Client(f"{prefix}-{side}", host, mode)
    client.login()  # IPv6's first neighbour may take a second
    client.limit = 1.0
    with inside(f"{prefix}-router"), kernel.writer() as link:
        before = {each.key for each, _ in kernel.expectations()}
        client.agree()
        (expectation,) = (each for each, _ in kernel.expectations() if each.key not in before)
        link.send(ctnetlink.deletion(expectation))
    return client, expectation


@pytest.mark.parametrize(("case", "mode"), MODES)
def test_it_leads_the_data_connection_again(prefix: str, case: str, mode: Mode) -> None:
    client, expectation = agreed(prefix, case, mode)
    with inside(f"{prefix}-router"):
        assert kernel.create([(expectation, 77)]) == [0]
        left = {each.key: left for each, left in kernel.expectations()}
    assert 75 <= left[expectation.key] <= 77
    client.begin(SMALL)
    client.receive(SMALL)
    client.finish()
    client.close()


@pytest.mark.parametrize(("case", "mode"), MODES)
def test_without_it_there_is_none(prefix: str, case: str, mode: Mode) -> None:
    client, _ = agreed(prefix, case, mode)
    with pytest.raises((TimeoutError, ConnectionRefusedError)):
        client.begin(SMALL)
    client.close()


def test_one_in_the_way_is_replaced(prefix: str) -> None:
    client, expectation = agreed(prefix, "snat", Mode.PORT)
    with inside(f"{prefix}-router"):
        assert kernel.create([(expectation, 200), (expectation, 100)]) == [0, 0]
        left = {each.key: left for each, left in kernel.expectations()}
    assert 98 <= left[expectation.key] <= 100
    client.close()


def test_without_its_master_the_kernel_says_so(prefix: str) -> None:
    client, expectation = agreed(prefix, "snat", Mode.PORT)
    client.close()
    with inside(f"{prefix}-router"):
        other = tuple((kind, text.replace(b"\xc0", b"\xc1")) for kind, text in expectation.parts)
        assert kernel.create([(Expectation(2, other), 100)]) == [errno.ENOENT]
