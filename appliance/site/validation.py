"""The schema held against a document: pydantic's complaints become ours, with their place.

What has a mistake is taken out and the rest is tried again, so that the checks across the site
still run on all that was understood and a person sees every mistake at once.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from appliance.site.document import Document, Loc
from appliance.site.faults import Faults
from appliance.site.scalars import REFUSED, found
from appliance.site.schema import Site, mapping_at
from appliance.site.words import meant, quote, shorten


def validate(faults: Faults) -> Site | None:
    """The site as far as it is understood, mistakes noted in `faults`; None if nothing is left."""
    data = faults.document.data
    for key in Site.needed:
        if isinstance(data, dict) and key not in data:
            faults.add((), f"key '{key}' is missing")
    first = True
    while True:
        try:
            return Site.model_validate(faults.document.data)
        except ValidationError as wrong:
            errors = wrong.errors(include_url=False)
        dropped = {_culprit(error, faults.document) for error in errors}
        # What is amiss after the first round is only missing because we took it out.
        for error in errors if first else ():
            _note(error, faults)
        if () in dropped:
            return None
        faults.document = faults.document.without(dropped)
        first = False


def _is_about_key(error: ErrorDetails, document: Document) -> bool:
    """Whether this is about a name: pydantic then adds a step that leads nowhere."""
    return error["loc"][-1:] == ("[key]",) and error["loc"] not in document.values


def _culprit(error: ErrorDetails, document: Document) -> Loc:
    """What to take out: the wrong value, or the mapping that lacks something."""
    beside = error["type"] == "missing" or _is_about_key(error, document)
    return document.existing(error["loc"][:-1] if beside else error["loc"])


def _note(error: ErrorDetails, faults: Faults) -> None:
    key = _is_about_key(error, faults.document)
    loc = error["loc"][:-1] if key else error["loc"]
    if error["type"] == "extra_forbidden":
        _unknown_key(loc, faults)
    elif error["type"] == "missing":
        _missing_key(loc, faults)
    elif error["type"] == REFUSED:
        context = error["ctx"]
        faults.add(loc, context["what"], context["hint"], key=key)
    else:
        faults.add(loc, f"{_expected(error)}, found {found(error['input'])}")


def _expected(error: ErrorDetails) -> str:
    kinds: dict[str, str] = {
        "model_type": "a mapping",
        "dict_type": "a mapping",
        "tuple_type": "a list",
    }
    return f"expected {kinds[error['type']]}"


def _unknown_key(loc: Loc, faults: Faults) -> None:
    *around, key = loc
    name, mapping = str(key), mapping_at(tuple(around))
    known: dict[str, Any] = mapping.keys()
    some = f"known here: {', '.join(known)}" if known else None
    hint = meant(name, known) or some
    faults.add(loc, f"unknown key {quote(name)}{_within(around)}", hint, key=True)


def _missing_key(loc: Loc, faults: Faults) -> None:
    *around, key = loc
    faults.add(tuple(around), f"key '{key}' is missing{_within(around)}", key=True)


def _within(around: list[str | int]) -> str:
    names = ".".join(shorten(step) for step in around if isinstance(step, str))
    return f" in {names}" if names else ""
