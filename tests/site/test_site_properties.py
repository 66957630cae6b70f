"""Whatever stands in a file, the answer is a plan or a list of mistakes, and it comes soon."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from appliance.errors import SiteError
from appliance.plan.model import Plan
from appliance.site import load
from tests.strategies import sites, trees

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))

slow = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def answer(content: bytes) -> Plan | SiteError:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "site.yaml"
        path.write_bytes(content)
        try:
            return load(path)
        except SiteError as wrong:
            check_problems(wrong, content)
            return wrong


def check_problems(wrong: SiteError, content: bytes) -> None:
    """Each mistake has a place that the file has, and words that a terminal can show."""
    lines = len(content.splitlines())
    assert wrong.problems
    for problem in wrong.problems:
        assert 1 <= problem.line <= lines + 1
        assert problem.column >= 1
        assert problem.what.isprintable()
        assert problem.hint is None or problem.hint.isprintable()
    assert len(set(wrong.problems)) == len(wrong.problems)


@slow
@given(st.binary(max_size=300))
@example(b"")
@example(b"\xff\xfe")
@example(b"%YAML " + b"9" * 5000 + b".1\n---\n")
@example(b'"\\U00110000"')
@example(b"[" * 5000)
@example(b"- " * 5000)
@example(b"? " * 5000)
@example("\x85\x850".encode())
def test_any_bytes(content: bytes) -> None:
    answer(content)


@slow
@given(st.text(st.sampled_from("ab:-?[]{},&*!|>'\"%@` \n\t#~\\U0\x85\u2028"), max_size=80))
def test_any_text_of_the_characters_that_yaml_cares_for(text: str) -> None:
    answer(text.encode())


@settings(slow, max_examples=100)
@given(sites())
def test_right_sites_are_accepted(text: str) -> None:
    found = answer(text.encode())
    assert isinstance(found, Plan), str(found)


@settings(slow, max_examples=100)
@given(st.data())
def test_right_sites_with_a_few_characters_changed(data: st.DataObject) -> None:
    right = st.one_of(sites(), st.sampled_from([path.read_text() for path in EXAMPLES]))
    text = data.draw(right)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        gone = data.draw(st.integers(0, 6))
        text = text[:at] + data.draw(st.text(max_size=4)) + text[at + gone :]
    answer(text.encode())


ODD = st.one_of(
    st.none(),
    st.just({}),
    st.just([]),
    st.lists(st.none() | st.text(max_size=3), max_size=2),
    st.dictionaries(st.text(max_size=3), st.none(), max_size=2),
    st.text(max_size=20),
    st.integers(-(10**30), 10**30),
    st.sampled_from(
        [
            "any",
            "self",
            "@set",
            "10.0.0.1",
            "0.0.0.0/0",
            "::",
            "fe80::1/64",
            "ff02::1",
            "::/0",
            "255",
        ]
    ),
    st.sampled_from(
        [
            "tcp/0",
            "tcp/1-",
            "/",
            "1e9s",
            "٣/s",
            "²",
            "ssh-rsa",
            "[::1]:5",
            "1:2",
            "%d",
            "{what}",
            "{0}",
        ]
    ),
)


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every mapping and list of a tree with each of its keys or indices."""
    steps = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for step, inside in list(steps):
        yield tree, step
        if isinstance(inside, dict | list):
            yield from places(inside)


@settings(slow, max_examples=200)
@given(st.data())
def test_right_sites_with_parts_gone_odd_or_moved(data: st.DataObject) -> None:
    tree = data.draw(trees())
    for _ in range(data.draw(st.integers(1, 3))):
        around, step = data.draw(st.sampled_from(list(places(tree)) or [(tree, "site")]))
        change = data.draw(st.sampled_from(["drop", "odd", "move", "rename"]))
        if change == "drop":
            around.pop(step)
        elif change == "odd":
            around[step] = data.draw(ODD)
        elif change == "move":
            other, where = data.draw(st.sampled_from(list(places(tree))))
            around[step] = yaml.safe_load(yaml.safe_dump(other[where]))
        elif isinstance(around, dict):
            around[data.draw(st.text(max_size=5) | st.just("[key]"))] = around.pop(step)
    answer(yaml.safe_dump(tree, allow_unicode=True, sort_keys=False).encode())


@pytest.mark.parametrize(
    "text",
    [
        "site: x\nnodes: {a: }\nnetworks: {" + ", ".join(f"n{i}: {{}}" for i in range(3000)) + "}",
        "site: x\nnat: [" + ", ".join(["{snat: 1.2.3.4, to: x}"] * 3000) + "]",
        "a: " + "x" * 500_000,
    ],
    ids=["networks", "nat", "long"],
)
def test_a_thousand_mistakes_take_seconds_at_most(text: str) -> None:
    """The time is the test's own limit: quadratic work over these would take minutes."""
    assert isinstance(answer(text.encode()), SiteError)
