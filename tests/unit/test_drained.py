"""The annotation that says which control planes are drained."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiha.drained import ANNOTATION, MOST, Drain, Drained, of_service, parse

NOON = datetime(2026, 11, 24, 12, 0, 0, tzinfo=timezone.utc)

moments = st.none() | st.datetimes(
    min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1), timezones=st.just(timezone.utc)
).map(lambda moment: moment.replace(microsecond=0))
addresses = st.integers(1, 200).map(lambda n: f"192.0.2.{n}") | st.integers(1, 99).map(
    lambda n: f"2001:db8::{n}"
)


@given(st.dictionaries(addresses, moments, max_size=MOST))
def test_what_was_written_is_read(drains: dict[str, datetime | None]) -> None:
    """Addresses of both families, with and without a time."""
    drained = Drained(tuple(Drain(address, since) for address, since in drains.items()))
    assert parse(drained.text() or "") == drained


@given(st.text(max_size=200) | st.text(alphabet="0123456789.:@,T-Z ", max_size=80))
def test_no_text_breaks_the_reader(text: str) -> None:
    """Whatever stands there: at most 32 addresses, and a line for each part that cannot be used."""
    found = parse(text)
    assert len(found.drains) <= MOST
    assert parse(found.text() or "").drains == found.drains
    assert all(problem and "\n" not in problem for problem in found.problems)


@pytest.mark.parametrize(
    ("text", "drains", "problems"),
    [
        ("", (), ()),
        (" 10.0.0.11 , 10.0.0.12@2026-11-24T12:00:00Z,", (Drain("10.0.0.11"), Drain("10.0.0.12", NOON)), ()),
        ("10.0.0.11,10.0.0.11@2026-11-24T12:00:00Z", (Drain("10.0.0.11"),), ()),
        ("2001:DB8::1", (Drain("2001:db8::1"),), ()),
        ("cp1,10.0.0.11", (Drain("10.0.0.11"),), ("'cp1' is not an IPv4 or IPv6 address",)),
        ("10.0.0.11:6443", (), ("'10.0.0.11:6443' is not an IPv4 or IPv6 address",)),
        (
            "10.0.0.11@yesterday",
            (Drain("10.0.0.11"),),
            ("'yesterday' is not a time like 2026-11-24T17:39:11Z; 10.0.0.11 counts as drained",),
        ),
        ("x" * 5000, (), ("longer than 4096 characters; nothing of it is used",)),
    ],
)
def test_what_counts(text: str, drains: tuple[Drain, ...], problems: tuple[str, ...]) -> None:
    """What cannot be used is named, and the rest holds; a time that cannot be read puts no machine back to work."""
    assert parse(text) == Drained(drains, problems)


def test_more_addresses_than_a_cluster_has_are_not_used() -> None:
    """32, and one line that says so."""
    found = parse(",".join(f"10.0.0.{number}" for number in range(1, 60)))
    assert len(found.drains) == MOST
    assert found.problems == ("more than 32 addresses; 10.0.0.33 and later ones are not used",)


@pytest.mark.parametrize(
    "service",
    [
        None,
        {},
        {"metadata": None},
        {"metadata": {"annotations": None}},
        {"metadata": {"annotations": {ANNOTATION: 7}}},
    ],
)
def test_a_service_that_says_nothing_drains_nobody(service: dict[str, object] | None) -> None:
    """Absent, or without the annotation, or of another shape."""
    assert of_service(service) == Drained()


def test_the_annotation_of_a_service_is_read() -> None:
    """As the API server gives it."""
    service = {"metadata": {"annotations": {ANNOTATION: "10.0.0.11"}}}
    assert of_service(service).addresses == {"10.0.0.11"}


def test_one_more_and_one_less() -> None:
    """A second drain of the same address keeps the time of the first; the last one taken away leaves no annotation."""
    one = Drained().having(Drain("10.0.0.11", NOON))
    assert one.having(Drain("10.0.0.11", NOON + timedelta(hours=1))) == one
    assert one.without("10.0.0.12") == one
    assert one.without("10.0.0.11").text() is None


def test_a_drain_is_forgotten_after_a_week() -> None:
    """Not one second earlier, and never one whose time nobody wrote down."""
    assert not Drain("10.0.0.11", NOON).forgotten(NOON + timedelta(days=7))
    assert Drain("10.0.0.11", NOON).forgotten(NOON + timedelta(days=7, seconds=1))
    assert not Drain("10.0.0.11").forgotten(NOON)
