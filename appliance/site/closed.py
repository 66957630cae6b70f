"""A mapping of the site file that has known keys and no others."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator


def _mapping_or_blank(value: object) -> object:
    return {} if value is None else value


def _list_or_blank(value: object) -> object:
    return [] if value is None else value


BlankMapping = BeforeValidator(_mapping_or_blank)
BlankList = BeforeValidator(_list_or_blank)


class Closed(BaseModel):
    """A mapping with known keys only."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    @model_validator(mode="before")
    @classmethod
    def _blank_is_empty(cls, value: object) -> object:
        return _mapping_or_blank(value)

    @classmethod
    def keys(cls) -> dict[str, Any]:
        """The keys as they stand in the file, with the type of each."""
        return {f.alias or name: f.annotation for name, f in cls.model_fields.items()}
