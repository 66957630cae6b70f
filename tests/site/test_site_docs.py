"""The reference of the site file tells the truth."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from appliance.errors import SiteError
from appliance.plan.services import BUILT_IN
from appliance.site import load
from appliance.site.schema import Closed, Site

PAGE = (Path(__file__).parents[2] / "docs" / "site-file.md").read_text()
WORDS = set(re.findall(r"`([^`\n]+)`", PAGE))


def mappings(kind: Any) -> Iterator[type[Closed]]:
    """Every mapping of the schema from `kind` on."""
    if isinstance(kind, type) and issubclass(kind, Closed):
        yield kind
        for inside in kind.keys().values():
            yield from mappings(inside)
    for inside in get_args(kind):
        yield from mappings(inside)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def test_the_walk_over_the_schema_reaches_its_leaves() -> None:
    names = {mapping.__name__ for mapping in mappings(Site)}
    assert {"Site", "Network", "Route", "Rule", "LogSwitch", "Ssh", "Expect"} <= names


MAPPINGS = list(dict.fromkeys(mappings(Site)))


@pytest.mark.parametrize("mapping", MAPPINGS, ids=lambda mapping: mapping.__name__)
def test_every_key_is_described(mapping: type[Closed]) -> None:
    assert set(mapping.keys()) <= WORDS | {"limit"}
    assert "{limit: 10/s}" in PAGE


def test_every_built_in_service_is_named() -> None:
    assert set(BUILT_IN) <= WORDS


def test_the_first_example_is_right(tmp_path: Path) -> None:
    path = tmp_path / "office.yaml"
    path.write_text(blocks("yaml")[0])
    assert load(path).site == "office"


def test_the_mistakes_are_shown_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("office.yaml")
    path.write_text(blocks("yaml")[1])
    with pytest.raises(SiteError) as wrong:
        load(path)
    assert f"{wrong.value}\n" == blocks("text")[0]


@pytest.mark.parametrize(
    ("key", "default"),
    [
        ("advert", "`100ms`"),
        ("preempt", "`false`"),
        ("vrid", "51"),
        ("priority", "100"),
        ("role", "`traffic`"),
        ("action", "`accept`"),
        ("forward", "`nat`"),
        ("quorum", "1"),
        ("hysteresis", "0"),
        ("on_failure", "`remove`"),
    ],
)
def test_defaults_are_those_of_the_schema(key: str, default: str) -> None:
    (row,) = re.findall(rf"^\| `{key}` \|[^|]*\| ([^|]*) \|", PAGE, re.MULTILINE)
    (field,) = {
        str(field.default)
        for mapping in MAPPINGS
        for name, field in mapping.model_fields.items()
        if name == key
    }
    stated = default.strip("`").removesuffix("ms").capitalize()
    assert row == default
    assert field.capitalize() == stated
