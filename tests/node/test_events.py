from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.node.events import Fifo, News, Parser, Role

GROUP = b'GROUP "appliance" %s 0\n'


def feed(*pieces: bytes) -> list[News]:
    parser = Parser("appliance")
    return [parser.feed(piece) for piece in pieces]


def test_only_the_latest_role_of_our_group_counts() -> None:
    text = GROUP % b"MASTER" + GROUP % b"BACKUP" + b'GROUP "other" FAULT 0\n'
    assert feed(text) == [News(Role.BACKUP)]


def test_the_first_instance_that_is_master_is_enough_but_not_for_another_role() -> None:
    assert feed(b'INSTANCE "inside-4" MASTER 150\n') == [News(Role.MASTER)]
    assert feed(b'INSTANCE "inside-4" BACKUP 150\n') == [News()]


def test_a_lower_advert_or_a_short_absence_means_that_the_peer_was_active_too() -> None:
    assert feed(b'INSTANCE "inside-4" MASTER_RX_LOWER_PRI 150\n') == [News(None, shared=True)]
    assert feed(GROUP % b"BACKUP" + GROUP % b"MASTER") == [News(Role.MASTER, shared=True)]


def test_a_line_may_come_in_pieces() -> None:
    assert feed(b'GROUP "appl', b'iance" MASTER 0', b"\n") == [News(), News(), News(Role.MASTER)]


@pytest.mark.parametrize("noise", [b"\xff\xfe\n", b"\n", b'GROUP "appliance" DANCING 0\n'])
def test_what_is_not_a_line_of_keepalived_is_dropped(noise: bytes) -> None:
    assert feed(noise + GROUP % b"FAULT") == [News(Role.FAULT)]


def test_an_endless_line_does_not_fill_the_memory() -> None:
    parser = Parser("appliance")
    for _ in range(100):
        parser.feed(b"x" * 1000)
    assert len(parser.rest) <= 4096
    assert parser.feed(b"\n" + GROUP % b"MASTER") == News(Role.MASTER)


@given(st.binary(), st.lists(st.integers(0, 200)))
def test_no_bytes_and_no_way_to_cut_them_break_the_parser(data: bytes, cuts: list[int]) -> None:
    parser = Parser("appliance")
    edges = [0, *sorted(cuts), len(data)]
    for begin, end in pairwise(edges):
        parser.feed(data[begin:end])
    parser.feed(b"\n")
    assert parser.feed(GROUP % b"MASTER").role is Role.MASTER


def test_the_fifo_is_made_read_and_opened_anew_when_replaced(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    fifo = Fifo(path, Parser("appliance"))
    assert fifo.read() == News()
    path.write_bytes(GROUP % b"BACKUP")
    assert fifo.read() == News(Role.BACKUP)
    assert not fifo.replaced()
    path.unlink()
    os.mkfifo(path)
    assert fifo.replaced()
    path.write_bytes(GROUP % b"MASTER")
    assert fifo.read() == News(Role.MASTER)
    os.close(fifo.fd)
