"""Reading JSON whose shape nobody vouches for: what is at a path, an object, the objects in a list. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def at(document: object, *path: str) -> Any:
    """What lies at these keys, one object inside the other; None where something on the way is no object, or absent."""
    value = document
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def mapping(value: object) -> Mapping[str, Any]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def mappings(value: object) -> list[Mapping[str, Any]]:
    """The objects in a collection; what else is in it is left out, and anything else holds none."""
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        return []
    return [entry for entry in value if isinstance(entry, Mapping)]


def text_or_none(value: object) -> str | None:
    """The value if it is a text that says something."""
    return value if isinstance(value, str) and value else None
