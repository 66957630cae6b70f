"""Site layers that are signed, on routers whose image was built with keys."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from appliance.image import keys as image_keys
from appliance.image.keys import Keys
from appliance.image.signing import sign_text
from appliance.node import seal, vault
from appliance.node.layer import BadLayerError
from appliance.tools import ToolsTree, ensure
from tests.node.updates import gpg
from tests.operate.routers import Pair, pair
from tests.operate.test_apply import MORE, RULE, Shown


@pytest.fixture(scope="module")
def tools() -> ToolsTree:
    return ensure()


@pytest.fixture(scope="module")
def keys(tools: ToolsTree, tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return image_keys.generate(tmp_path_factory.mktemp("keys") / "mine", tools)


@pytest.fixture
def site(tmp_path: Path, tools: ToolsTree, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> Pair:
    """Both routers know the public key."""
    monkeypatch.setenv("PATH", f"{gpg(tmp_path / 'gpg', tools)}:{os.environ['PATH']}")
    made = pair(tmp_path / "net")
    for router in made.nodes.values():
        keyring = router.root / seal.KEYRING
        keyring.parent.mkdir(parents=True, exist_ok=True)
        keyring.write_bytes(keys.payload_keyring.read_bytes())
    return made


def test_a_signed_layer_is_taken_and_verified_again_at_a_boot(site: Pair, keys: Keys) -> None:
    new = site.edit(RULE, MORE)
    assert site.call("--keys", str(keys.folder)) == 0
    for router in site.nodes.values():
        assert router.digest() == new
        chosen = router.chosen()
        assert chosen
        assert vault.take(chosen.identity, router.root).manifest.digest == new
        file = router.root / vault.PLACE / f"{chosen.identity}.layer"
        file.write_text(file.read_text().replace("BEGIN PGP", "BEGIN PG"))
        with pytest.raises(BadLayerError, match="not signed"):
            vault.take(chosen.identity, router.root)


def test_without_keys_nothing_is_sent(site: Pair, capsys: Shown) -> None:
    site.edit(RULE, MORE)
    assert site.call() == 1
    said = capsys.readouterr().err
    assert "the image of fw1, fw2 takes signed layers only" in said
    assert "--keys FOLDER" in said
    assert not site.nodes["fw1"].log()


def test_another_key_is_refused(
    site: Pair, tools: ToolsTree, tmp_path: Path, capsys: Shown
) -> None:
    other = image_keys.generate(tmp_path / "other", tools)
    site.edit(RULE, MORE)
    assert site.call("--keys", str(other.folder)) == 1
    assert "signed by another key than those of this image" in capsys.readouterr().err
    assert not site.nodes["fw1"].log()


def test_a_manifest_that_was_altered_is_refused(site: Pair, keys: Keys, tools: ToolsTree) -> None:
    signature = sign_text("one\n", keys, tools)
    root = site.nodes["fw1"].root
    seal.check("one\n", signature, root)
    with pytest.raises(BadLayerError, match=r"altered: manifest\.json is not what was signed"):
        seal.check("two\n", signature, root)
