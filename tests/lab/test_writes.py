"""What a power cut leaves of a disk, from what QEMU recorded of it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from appliance import tools
from appliance.lab import qemu, writes
from appliance.lab.errors import HarnessError
from appliance.lab.qemu import FirmwareBoot
from appliance.lab.writes import SECTOR, Cut, Record
from appliance.run import run

SIZE = 1 << 20
# Of whole blocks, as QEMU flushes by itself after others.
REQUESTS = (
    *("write -P 1 0 4k", "write -P 2 4k 8k", "flush"),
    *("write -P 3 4k 4k", "write -P 4 12k 4k", "flush", "flush"),
    *("write -P 5 0 4k", "write -P 6 16k 4k"),
)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """By the drive of a machine that records, as qemu-io uses it."""
    folder, kit = tmp_path_factory.mktemp("disk"), tools.ensure()
    disk, log = folder / "disk.qcow2", folder / "with,comma.log"
    run(kit.inside(["qemu-img", "create", "-q", "-f", "qcow2", disk, str(SIZE)]))
    log.touch()
    drive = qemu.drive(FirmwareBoot(disk, folder / "vars", writes=log))
    commands = [word for each in REQUESTS for word in ("-c", each)]
    run(kit.inside(["qemu-io", "--image-opts", *commands, drive]))
    return writes.read(log)


def replayed(record: Record, cut: Cut, folder: Path) -> bytes:
    """A disk of zeros after this cut."""
    disk = folder / "raw"
    disk.write_bytes(bytes(SIZE))
    record.replay(cut, disk)
    return disk.read_bytes()


def kinds(disk: bytes) -> dict[int, int]:
    """The pattern at the places that the requests are about, by KiB."""
    return {kib: disk[kib << 10] for kib in (0, 4, 8, 12, 16)}


def test_what_was_flushed_is_there_after_any_cut(recorded: Record, tmp_path: Path) -> None:
    safe, lost = set(), set()
    for seed in range(200):
        cut = recorded.cut(random.Random(seed), begin=2)
        seen = kinds(replayed(recorded, cut, tmp_path))
        assert (seen[4], seen[8], seen[12]) == (3, 2, 4)
        safe.add(len(cut.safe))
        lost.add((seen[0], seen[16]))
    assert safe == {4, 6}  # the end of the record is a moment, too
    assert lost == {(1, 0), (5, 0), (1, 6), (5, 6)}


def test_a_cut_is_at_any_moment_and_its_last_write_is_torn(recorded: Record) -> None:
    cuts = [recorded.cut(random.Random(seed)) for seed in range(2000)]
    assert {len(cut.safe) for cut in cuts} == {0, 2, 4, 6}
    lasts = [cut.left[-1] for cut in cuts if cut.left and not cut.safe]
    first = {last.size for last in lasts if last.at == 0}
    assert first == {SECTOR * n for n in range(9)}
    again = [recorded.cut(random.Random(seed)) for seed in range(2000)]
    assert cuts == again


def test_all_of_the_record_is_the_disk_itself(recorded: Record, tmp_path: Path) -> None:
    kit, raw = tools.ensure(), tmp_path / "converted"
    disk = recorded.path.parent / "disk.qcow2"
    run(kit.inside(["qemu-img", "convert", "-O", "raw", disk, raw]))
    whole = Cut([w for each in recorded.intervals for w in each], [])
    assert replayed(recorded, whole, tmp_path) == raw.read_bytes()


def test_a_record_that_is_not_whole_is_not_taken_for_one(recorded: Record, tmp_path: Path) -> None:
    whole, last = recorded.path.read_bytes(), recorded.intervals[2][-1]
    head = last.data - SECTOR
    (ended := tmp_path / "ended").write_bytes(whole[: last.data + last.size - 1])
    (holed := tmp_path / "holed").write_bytes(whole[:head] + bytes(SECTOR) + whole[last.data :])
    for log in (ended, holed):
        with pytest.raises(HarnessError, match="a write is missing"):
            writes.read(log)
