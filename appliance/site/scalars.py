"""How a scalar or a list of the site file becomes a typed value, or is refused in our words."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BeforeValidator, PlainValidator
from pydantic_core import PydanticCustomError

from appliance.site.words import meant, quote

T = TypeVar("T")

REFUSED = "refused"


def refuse(what: str, hint: str | None = None) -> PydanticCustomError:
    """The error that carries our wording through pydantic."""
    return PydanticCustomError(REFUSED, "{what}", {"what": what, "hint": hint})


def found(value: object) -> str:
    """What stands where something else was expected."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    return "nothing" if value is None else quote(str(value))


def scalar(kind: str, parse: Callable[[str], T]) -> PlainValidator:
    """A validator for text; `kind` says what was expected where a list or mapping stands."""

    def one_line(text: str) -> T:
        if "\n" in text:
            raise refuse("character U+000A has no place in a site file")
        return parse(text)

    return block(kind, one_line)


def block(kind: str, parse: Callable[[str], T]) -> PlainValidator:
    """As `scalar`, for text that may have several lines."""

    def validate(value: object) -> T:
        if not isinstance(value, str):
            raise refuse(f"expected {kind}, found {found(value)}")
        return parse(value)

    return PlainValidator(validate)


def one_of(kind: str, words: type[StrEnum]) -> PlainValidator:
    """A validator for one of some closed words."""

    def parse(text: str) -> StrEnum:
        if text in tuple(words):
            return words(text)
        choice = ", ".join(words)
        raise refuse(f"{quote(text)} is not {kind}: one of {choice}", meant(text, words))

    return scalar(kind, parse)


# Lists: one item may stand without its brackets.


def _as_list(value: object) -> object:
    if value is None or value == "":
        raise refuse("expected a value or a list, found nothing")
    return [value] if isinstance(value, str) else value


def _as_list_or_none(value: object) -> object:
    return [] if value is None else _as_list(value)


def _not_empty(value: tuple[T, ...]) -> tuple[T, ...]:
    if not value:
        raise refuse("the list is empty", "leave the key out if nothing is meant")
    return value


def _given(value: T) -> T:
    if value is None:
        raise refuse("expected a value, found nothing", "leave the key out if nothing is meant")
    return value


# A key that may be left out, but not left blank: a rule whose source got lost must not match all.
Maybe = Annotated[T | None, BeforeValidator(_given)]

# `Some` must hold something: no service would mean every service.
Some = Annotated[tuple[T, ...], BeforeValidator(_as_list), AfterValidator(_not_empty)]
Many = Annotated[tuple[T, ...], BeforeValidator(_as_list_or_none)]
