"""QEMU's command line, from small pure sections; `tests/lab` compares it with golden texts.

Sources: qemu(1) of QEMU 10.0; systemd.system-credentials(7) for what reaches a guest by SMBIOS and
fw_cfg.
"""

from __future__ import annotations

import base64
import hashlib
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

PROGRAM = "qemu-system-x86_64"
CONTROL_PORT = "appliance.lab"

# An emulated processor does without what costs an emulator more than it gains: string instructions
# go byte by byte, page walks have one more level, each switch saves registers that nobody uses.
EMULATED = "max,-erms,-fsrm,-la57,-pku,-mpx,-avx,-avx2,-xsave"

# The longest name that fw_cfg takes is 55 bytes (docs/specs/fw_cfg.rst), which most unit names
# exceed; SMBIOS strings
# have no such limit but the table is small. So what is long goes by fw_cfg and has a short name.
_FW_CFG = "opt/io.systemd.credentials/"
_LONG = 2048


class Accelerator(StrEnum):
    """How the guest's processor is made."""

    KVM = "kvm"
    TCG = "tcg"


@dataclass(frozen=True, slots=True)
class Nic:
    """One network card; `interface` is its name in the guest, `mac` as colon-separated hex."""

    network: str
    interface: str
    mac: str


@dataclass(frozen=True, slots=True)
class Firmware:
    """A build of OVMF, and what it remembers when it is new.

    One that is `secure` insists on signatures once keys are enrolled in its variables. It keeps
    them where only system management mode can write, which costs each start some seconds.
    """

    code: Path
    variables: Path
    secure: bool = False


_OVMF = Path("/usr/share/OVMF")
USUAL_FIRMWARE = Firmware(_OVMF / "OVMF_CODE_4M.fd", _OVMF / "OVMF_VARS_4M.fd")


def secure_firmware(variables: Path) -> Firmware:
    """One with keys of one's own in its `variables`."""
    return Firmware(_OVMF / "OVMF_CODE_4M.secboot.fd", variables, secure=True)


@dataclass(frozen=True, slots=True)
class FirmwareBoot:
    """Boots as the hardware would: firmware, boot loader, disk. `variables` is this machine's own
    copy of those of the `firmware`; `writes`, where all writes to the disk are recorded, for
    `appliance.lab.writes`.
    """

    disk: Path
    variables: Path
    firmware: Firmware = USUAL_FIRMWARE
    writes: Path | None = None


@dataclass(frozen=True, slots=True)
class KernelBoot:
    """Boots a kernel directly, with a read-only root disk."""

    kernel: Path
    initrd: Path
    root: Path
    cmdline: str


@dataclass(frozen=True, slots=True)
class Machine:
    """All that the command line of a machine follows from. `memory` in MiB.

    `disks` are further ones, raw, by the serial number that each has in the guest.
    """

    name: str
    boot: FirmwareBoot | KernelBoot
    nics: tuple[Nic, ...]
    accelerator: Accelerator
    serial_log: Path
    memory: int = 384
    credentials: Mapping[str, str] = field(default_factory=dict)
    disks: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sockets:
    """Descriptors that QEMU inherits: monitor, control channel, one for each network card in
    order.
    """

    monitor: int
    control: int
    nics: tuple[int, ...]


def mac(site: str, machine: str, network: str) -> str:
    """A fixed, locally administered address (IEEE 802 second bit) that follows from the names
    alone.
    """
    digest = hashlib.sha256(f"{site}/{machine}/{network}".encode()).digest()
    return ":".join(f"{byte:02x}" for byte in (0x52, 0x54, *digest[:4]))


def command(machine: Machine, sockets: Sockets, files: Mapping[str, Path]) -> list[str]:
    """QEMU's command line; `files` are the credentials that `by_file` chose, each as a file."""
    slots = _free_slots(machine.nics)
    return [
        PROGRAM,
        *_board(machine),
        *_boot(machine.boot, slots),
        *(word for disk in machine.disks.items() for word in _disk(*disk, slots)),
        *_channels(machine, sockets, slots),
        *_watch(slots),
        *(
            word
            for nic in zip(machine.nics, sockets.nics, strict=True)
            for word in _nic(*nic, slots)
        ),
        *_credentials(machine.credentials, files),
    ]


def by_file(credentials: Mapping[str, str]) -> dict[str, str]:
    """The credentials that are too long for SMBIOS and travel as files."""
    return {name: text for name, text in credentials.items() if len(text) > _LONG}


def link_credentials(nics: Sequence[Nic]) -> dict[str, str]:
    """What names those cards whose name does not follow from their slot
    (systemd-network-generator(8)).
    """
    return {
        f"network.link.10-lab-{nic.interface}": (
            f"[Match]\nPermanentMACAddress={nic.mac}\n[Link]\nName={nic.interface}\n"
        )
        for nic in nics
        if _slot(nic) is None
    }


def _board(machine: Machine) -> list[str]:
    fast = machine.accelerator is Accelerator.KVM
    secure = isinstance(machine.boot, FirmwareBoot) and machine.boot.firmware.secure
    return [
        *("-name", machine.name),
        # As any firmware has one: without it, it would be another machine at each boot, and would
        # not find what it has logged before.
        *("-uuid", str(uuid.uuid5(uuid.NAMESPACE_DNS, machine.name))),
        "-no-user-config",
        "-nodefaults",
        *("-machine", f"q35,smm={'on' if secure else 'off'},vmport=off"),
        *(("-global", "driver=cfi.pflash01,property=secure,value=on") if secure else ()),
        *("-accel", "kvm" if fast else "tcg,thread=multi,tb-size=256"),
        *("-cpu", "host" if fast else EMULATED),
        *("-smp", "1"),
        *("-m", str(machine.memory)),
        *("-display", "none"),
        *("-rtc", "base=utc,clock=host"),
        *("-serial", f"file:{_escape(machine.serial_log)}"),
    ]


def _boot(boot: FirmwareBoot | KernelBoot, slots: list[int]) -> list[str]:
    device = f"virtio-blk-pci,drive=disk,bootindex=1,{_place(slots)}"
    if isinstance(boot, FirmwareBoot) and boot.writes:
        # Merged requests have as many pieces as pwritev(2) takes; blklogwrites adds two, and fails.
        device += ",request-merging=off"
    disk = ["-drive", f"if=none,id=disk,{drive(boot)}", "-device", device]
    if isinstance(boot, FirmwareBoot):
        flash = "if=pflash,format=raw"
        return [
            *("-drive", f"{flash},unit=0,readonly=on,file={boot.firmware.code}"),
            *("-drive", f"{flash},unit=1,file={_escape(boot.variables)}"),
            *disk,
        ]
    start = ["-kernel", str(boot.kernel), "-initrd", str(boot.initrd), "-append", boot.cmdline]
    return [*start, *disk]


def drive(boot: FirmwareBoot | KernelBoot) -> str:
    """What a machine starts from, in the words of QEMU's -drive."""
    if isinstance(boot, KernelBoot):
        return f"file={_escape(boot.root)},format=raw,read-only=on,discard=unmap"
    disk = _escape(boot.disk)
    if boot.writes is None:
        return f"file={disk},format=qcow2,discard=unmap"
    recorded = f"log.driver=file,log.filename={_escape(boot.writes)}"
    inner = f"file.driver=qcow2,file.file.driver=file,file.file.filename={disk}"
    return f"driver=blklogwrites,{inner},{recorded}"


def _disk(serial: str, path: Path, slots: list[int]) -> list[str]:
    return [
        *("-drive", f"if=none,id={serial},file={_escape(path)},format=raw,discard=unmap"),
        *("-device", f"virtio-blk-pci,drive={serial},serial={serial},{_place(slots)}"),
    ]


def _channels(machine: Machine, sockets: Sockets, slots: list[int]) -> list[str]:
    return [
        *("-chardev", f"socket,id=monitor,fd={sockets.monitor}"),
        *("-mon", "chardev=monitor,mode=control"),
        *("-device", f"virtio-serial-pci,max_ports=2,{_place(slots)}"),
        *("-chardev", f"socket,id=control,fd={sockets.control}"),
        *("-device", f"virtserialport,chardev=control,name={CONTROL_PORT}"),
        *("-device", f"virtio-rng-pci,{_place(slots)}"),
    ]


def _watch(slots: list[int]) -> list[str]:
    """A watchdog that resets and a panic that is reported but left to the guest's own policy."""
    return [
        *("-device", f"i6300esb,{_place(slots)}", "-action", "watchdog=reset"),
        *("-device", f"pvpanic-pci,{_place(slots)}", "-action", "panic=none"),
    ]


def _nic(nic: Nic, descriptor: int, slots: list[int]) -> list[str]:
    slot = _slot(nic)
    place = f"bus=pcie.0,addr={slot:#x}" if slot else _place(slots)
    card = f"virtio-net-pci,id={nic.network},netdev=net-{nic.network},mac={nic.mac},romfile="
    return [
        *("-netdev", f"dgram,id=net-{nic.network},local.type=fd,local.str={descriptor}"),
        *("-device", f"{card},{place}"),
    ]


def _credentials(credentials: Mapping[str, str], files: Mapping[str, Path]) -> list[str]:
    words: list[str] = []
    for name, text in credentials.items():
        if name in files:
            words += ["-fw_cfg", f"name={_FW_CFG}{name},file={_escape(files[name])}"]
        else:
            value = base64.b64encode(text.encode()).decode()
            words += ["-smbios", f"type=11,value=io.systemd.credential.binary:{name}={value}"]
    return words


def _slot(nic: Nic) -> int | None:
    """The slot on the root bus that gives a card its name: enp0s3 is slot 3
    (systemd.net-naming-scheme(7)).
    """
    found = re.fullmatch(r"enp0s(\d+)", nic.interface)
    return int(found[1]) if found and 0 < int(found[1]) < 0x1F else None


def _free_slots(nics: Sequence[Nic]) -> list[int]:
    """Slots that no card claims by its name, to be taken from the end; 0 and 31 are the
    chipset's.
    """
    taken = {_slot(nic) for nic in nics}
    return [slot for slot in range(1, 0x1F) if slot not in taken]


def _place(slots: list[int]) -> str:
    return f"bus=pcie.0,addr={slots.pop():#x}"


def _escape(path: Path) -> str:
    """QEMU's own quoting: a comma is doubled."""
    return str(path).replace(",", ",,")
