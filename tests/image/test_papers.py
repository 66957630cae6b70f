"""What stands beside an image: what is in it, as others can read it, and the licence texts."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from spdx_tools.spdx.model import Document, ExternalPackageRefCategory, RelationshipType
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

from appliance import image
from appliance.errors import ToolError
from appliance.image import licences


def paper(built: image.Built, ending: str) -> Path:
    return built.raw.with_suffix(f".{ending}")


@pytest.fixture(scope="module")
def bill(built) -> Document:
    return parse_file(str(paper(built, "spdx.json")))


def test_the_bill_of_materials_is_what_the_standard_demands(bill: Document) -> None:
    assert validate_full_spdx_document(bill, "SPDX-2.3") == []


def test_the_validator_finds_a_mistake(built, tmp_path: Path) -> None:
    document = json.loads(paper(built, "spdx.json").read_text())
    document["relationships"][0]["relatedSpdxElement"] = "SPDXRef-Nobody"
    broken = tmp_path / "broken.spdx.json"
    broken.write_text(json.dumps(document))
    assert validate_full_spdx_document(parse_file(str(broken)), "SPDX-2.3")


def test_it_lists_each_package_of_the_manifest(built, bill: Document) -> None:
    packages = json.loads(built.manifest.read_text())["packages"]
    debian = [each for each in bill.packages if each.external_references]
    assert {each.name: each.version for each in debian} == packages
    (reference,) = next(each for each in debian if each.name == "keepalived").external_references
    assert reference.category is ExternalPackageRefCategory.PACKAGE_MANAGER
    assert reference.locator.startswith("pkg:deb/debian/keepalived@1%3A2.")
    contains = [
        each.related_spdx_element_id
        for each in bill.relationships
        if each.relationship_type is RelationshipType.CONTAINS
    ]
    assert set(contains) == {each.spdx_id for each in bill.packages} - {"SPDXRef-Image"}
    assert len(contains) == len(set(contains)) == len(packages) + 1


def test_it_is_of_this_image(built, bill: Document) -> None:
    (described,) = [each for each in bill.packages if each.checksums]
    assert [each.value for each in described.checksums] == [built.sha256]
    assert (described.name, described.version) == ("testcase", "7")


def test_every_package_has_its_licence_there(built, bill: Document) -> None:
    archive = paper(built, "licences.tar.xz")
    assert archive.name in bill.creation_info.document_comment
    with tarfile.open(archive) as tar:
        texts = {each.name: each for each in tar.getmembers()}
        assert {each.name for each in bill.packages if each.external_references} == {
            name.removesuffix("/copyright") for name in texts if name.endswith("/copyright")
        }
        assert all(each.isreg() and each.size for each in texts.values())
        general = tar.extractfile("common-licenses/GPL-2")
        assert general
        assert b"GNU GENERAL PUBLIC LICENSE" in general.read()


def test_a_package_without_its_licence_is_an_error(vm_base, tools_tree, tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"no copyright file in the image: nosuchpackage$"):
        licences.pack(
            vm_base.root, ["keepalived", "nosuchpackage"], tmp_path / "l.tar.xz", tools_tree
        )
