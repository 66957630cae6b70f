"""Site layers on the disk, and what a boot makes of them, on routers that are made of files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.node import activation, apply, lay, layer, swap, vault
from appliance.node.apply import Terms
from appliance.node.change import Step
from appliance.node.layer import BadLayerError, Layer, Manifest
from appliance.node.swap import Was
from appliance.node.vault import Chosen
from appliance.render import layers
from appliance.render.site import render
from appliance.site import load
from tests.operate.routers import Pair, Router, pair

RULE = "    - {from: inside, to: outside, service: icmp}\n"
NAMED = "    - {from: inside, to: outside, service: tcp/999}\n"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pair:
    made = pair(tmp_path / "net")
    router = made.nodes["fw2"]
    monkeypatch.setenv("NODE", str(router.folder))
    monkeypatch.setenv("PATH", f"{router.folder / 'bin'}:{os.environ['PATH']}")
    return made


@pytest.fixture
def router(site: Pair) -> Router:
    """The one that the programs of these tests speak for."""
    return site.nodes["fw2"]


def whole(site: Pair) -> tuple[Manifest, Layer]:
    """The layer of the site file as it is now, for fw2."""
    plan = load(site.site)
    tree = render(plan)
    manifest = layers.manifests(plan, tree)["fw2"]
    return manifest, Layer(manifest.text, None, layers.contents(tree["fw2"]))


def applied(site: Pair, router: Router, old: str, new: str) -> Manifest:
    """A change that is kept."""
    site.edit(old, new)
    manifest, sent = whole(site)
    apply.stage(sent.text, router.root)
    apply.begin(manifest.identity, Terms(60), router.root)
    apply.confirm(manifest.identity, router.root)
    return manifest


def of_image(router: Router) -> Manifest:
    files: dict[str, str] = json.loads((router.folder / "image.json").read_text())
    return layer.parse(files[str(layer.PATH)])


def test_a_boot_lays_the_layer_over_the_image_again(site: Pair, router: Router) -> None:
    metrics = "management:\n  metrics: {from: inside}\n"
    site.edit("management:\n", metrics)
    new = applied(site, router, RULE, NAMED)
    router.boot()
    assert router.digest() == of_image(router).digest
    assert lay.main(["--root", str(router.root)]) == 0
    assert layer.read(router.root) == new
    assert layer.digests(router.root, new.files) == {p: e.sha256 for p, e in new.files.items()}
    assert (router.root / "etc/appliance/metrics.json").stat().st_mode & 0o777 == 0o644


def test_what_the_layer_does_not_have_is_gone(site: Pair, router: Router) -> None:
    """The image has it."""
    odd = "etc/rsyslog.conf"
    old = of_image(router)
    image = layer.manifest(
        "testcase", "fw2", old.digest, [*_files(router, old), (odd, "old\n", 0o644)]
    )
    applied(site, router, RULE, NAMED)
    files = json.loads((router.folder / "image.json").read_text())
    files |= {odd: "old\n", str(layer.PATH): image.text}
    (router.folder / "image.json").write_text(json.dumps(files))
    router.boot()
    assert (router.root / odd).exists()
    lay.lay(router.root)
    assert not (router.root / odd).exists()


def _files(router: Router, manifest: Manifest) -> list[tuple[str, str, int]]:
    return [(path, router.text(path), each.mode) for path, each in manifest.files.items()]


def test_what_a_boot_does_is_done_once_more_where_it_was_done_before(
    site: Pair, router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernel settings and modules of a layer: their units may have run already."""
    monkeypatch.setitem(activation._COMMANDS, Step.MODULES, ())
    applied(site, router, "service: ftp}", "service: http}")
    router.boot()
    called: list[tuple[str, ...]] = []
    monkeypatch.setattr(lay.subprocess, "run", lambda argv, check: called.append(argv))
    lay.lay(router.root)
    assert called == [("/usr/lib/systemd/systemd-modules-load",)]


# Which is the newer one


def test_an_image_of_any_site_before_it_is_older(site: Pair, router: Router) -> None:
    first = of_image(router).digest
    second = applied(site, router, RULE, NAMED).digest
    third = applied(site, router, NAMED, NAMED.replace("999", "998")).digest
    assert router.chosen() == Chosen(layer.read(router.root).identity, (first, second))
    for digest, laid in ((first, third), (second, third), ("9" * 64, "9" * 64)):
        _upgrade(router, digest)
        lay.lay(router.root)
        assert router.digest() == laid


def _upgrade(router: Router, digest: str) -> None:
    """A boot of an image that was made from another site file."""
    old = of_image(router)
    router.boot()
    image = Manifest(old.site, old.node, digest, old.files)
    swap.write(router.root, {str(layer.PATH): Was(image.text)})


def test_after_an_upgrade_the_lineage_begins_anew(site: Pair, router: Router) -> None:
    applied(site, router, RULE, NAMED)
    _upgrade(router, "9" * 64)
    lay.lay(router.root)
    applied(site, router, NAMED, NAMED.replace("999", "998"))
    chosen = router.chosen()
    assert chosen
    assert chosen.over == ("9" * 64,)


# What is not laid


def _spoil(change: Callable[[str], str]) -> Callable[[Path], None]:
    return lambda file: file.write_text(change(file.read_text())) and None


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "altered": (_spoil(lambda text: text.replace("999", "998")), "not as its manifest says"),
    "truncated": (_spoil(lambda text: text[:-100]), "no site layer, or only a part"),
    "empty": (lambda file: file.write_text(""), "no site layer, or only a part"),
    "not text": (lambda file: file.write_bytes(b"\xff\xfe"), "cannot be read"),
    "gone": (lambda file: file.unlink(), "is not there"),
}


@pytest.mark.parametrize(("spoil", "why"), SPOILT.values(), ids=SPOILT)
def test_a_broken_layer_is_not_laid_and_the_unit_fails(
    site: Pair,
    router: Router,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], object],
    why: str,
) -> None:
    applied(site, router, RULE, NAMED)
    router.boot()
    (file,) = (router.root / vault.PLACE).glob("*.layer")
    spoil(file)
    assert lay.main(["--root", str(router.root)]) == 1
    assert why in capsys.readouterr().err
    assert layer.read(router.root) == of_image(router)
    assert "999" not in router.text("etc/nftables.conf")


def test_a_layer_of_another_node_is_not_laid(site: Pair, router: Router) -> None:
    applied(site, router, RULE, NAMED)
    router.boot()
    old = of_image(router)
    other = Manifest("testcase", "fw1", old.digest, old.files)
    swap.write(router.root, {str(layer.PATH): Was(other.text)})
    with pytest.raises(BadLayerError, match="it is for fw2 of testcase"):
        lay.lay(router.root)


def test_what_cannot_be_laid_as_a_whole_is_not_laid_at_all(
    site: Pair, router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied(site, router, RULE, NAMED)
    router.boot()
    replace, left = os.replace, [2]

    def full(source: Path, target: Path) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(swap.os, "replace", full)
    assert lay.main(["--root", str(router.root)]) == 1
    assert layer.digests(router.root, of_image(router).files) == {
        path: each.sha256 for path, each in of_image(router).files.items()
    }


# Moments


class PowerCutError(BaseException):
    """Nothing that comes after it happens."""


def test_whenever_the_power_is_cut_a_boot_has_the_old_site_or_the_new_one(
    site: Pair, router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each operation that changes the disk, from the first one of a change to its last."""
    old = applied(site, router, RULE, NAMED)
    site.edit(NAMED, NAMED.replace("999", "998"))
    new, sent = whole(site)
    seen = []
    for moment in range(100):
        router.boot()
        lay.lay(router.root)
        with monkeypatch.context() as patch:
            left = _cut_at(patch, moment)
            try:
                apply.stage(sent.text, router.root)
                apply.begin(new.identity, Terms(60), router.root)
                apply.confirm(new.identity, router.root)
            except PowerCutError:
                pass
        router.boot()
        lay.lay(router.root)
        now = layer.read(router.root)
        assert layer.digests(router.root, now.files) == {p: e.sha256 for p, e in now.files.items()}
        seen.append(now)
        if left[0] > 0:
            break
    assert seen[0] == old
    assert seen[-1] == new
    assert seen == sorted(seen, key=[old, new].index), "once it is new, it stays so"
    assert len(seen) > 10


def _cut_at(patch: pytest.MonkeyPatch, moment: int) -> list[int]:
    """Cut the power at this operation; what is left when it does not come to that."""
    left = [moment + 1]

    def until(real: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*args: object, **more: object) -> object:
            left[0] -= 1
            if left[0] <= 0:
                raise PowerCutError
            return real(*args, **more)

        return wrapped

    for owner, name in ((os, "replace"), (os, "fsync"), (Path, "rename"), (Path, "unlink")):
        patch.setattr(owner, name, until(getattr(owner, name)))
    return left


def test_a_full_disk_is_found_out_before_anything_changes(
    site: Pair, router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.edit(RULE, NAMED)
    new, sent = whole(site)
    apply.stage(sent.text, router.root)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(vault.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        apply.begin(new.identity, Terms(60), router.root)
    assert layer.read(router.root) == of_image(router)
    assert (router.log(), router.chosen()) == ([], None)
    assert not (router.folder / "timer").exists()


# What is refused


PLACES = ["../etc/x", "etc/../usr/x", "/etc/x", "usr/bin/x", "etc/.x", str(layer.PATH), "etc//x"]


@pytest.mark.parametrize("path", PLACES)
def test_a_manifest_names_files_of_etc_only(path: str) -> None:
    text = layer.manifest("s", "a", "0" * 64, [(path, "", 0o644)]).text
    with pytest.raises(BadLayerError, match="a site has no file"):
        layer.parse(text)


def test_a_manifest_makes_nothing_run_as_its_owner() -> None:
    text = layer.manifest("s", "a", "0" * 64, [("etc/x", "", 0o4755)]).text
    with pytest.raises(BadLayerError, match="mode 4755"):
        layer.parse(text)


def test_a_manifest_is_read_as_it_was_written() -> None:
    made = layer.manifest("s", "a", "0" * 64, [("etc/y", "1", 0o600), ("etc/x", "2", 0o644)])
    assert layer.parse(made.text) == made
    assert layer.parse(made.text).text == made.text


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"files": 1}', "null", '{"files": {"etc/x": 1}}']
)
def test_what_is_no_manifest(text: str) -> None:
    with pytest.raises(BadLayerError, match="no manifest"):
        layer.parse(text)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"contents": {"etc/x": 1}}', "null"])
def test_what_is_no_layer(text: str) -> None:
    with pytest.raises(BadLayerError, match="no site layer"):
        layer.receive(text)


def test_a_layer_that_lacks_a_file_is_refused(site: Pair, router: Router) -> None:
    site.edit(RULE, NAMED)
    _, sent = whole(site)
    less = {path: text for path, text in sent.contents.items() if path != "etc/nftables.conf"}
    with pytest.raises(BadLayerError, match=r"not as its manifest says: etc/nftables\.conf"):
        apply.stage(Layer(sent.manifest, None, less).text, router.root)
