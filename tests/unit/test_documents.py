"""What is read of JSON, whatever its shape."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiha.documents import at, mapping, mappings, text_or_none

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, st.lists(st.sampled_from("abc"), max_size=3))
def test_a_path_ends_at_what_is_there_or_at_none(document: Any, path: list[str]) -> None:
    """No shape makes it fail; with the steps all there it is what subscripts would give."""
    try:
        expected = document
        for key in path:
            expected = expected[key]
    except (KeyError, TypeError, IndexError):
        expected = None
    assert at(document, *path) is expected


@given(JSON)
def test_the_objects_of_a_list_are_objects(document: Any) -> None:
    """Nothing else comes out, and none gets lost."""
    wanted = [entry for entry in document if isinstance(entry, dict)] if isinstance(document, list) else []
    assert mappings(document) == wanted


@given(JSON)
def test_what_is_no_object_reads_as_an_empty_one(document: Any) -> None:
    """So that `get` can follow."""
    assert mapping(document) == (document if isinstance(document, dict) else {})


@pytest.mark.parametrize(
    ("value", "expected"), [("a", "a"), ("", None), (None, None), (7, None), (["a"], None), (b"a", None)]
)
def test_a_text_says_something_or_is_none(value: object, expected: str | None) -> None:
    """An empty one does not count."""
    assert text_or_none(value) == expected
