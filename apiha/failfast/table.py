"""What the kernel says about the table `inet apiha`, read from `nft --json`. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from apiha.durations import format_duration, parse_duration
from apiha.endpoint import Endpoint
from apiha.failfast.rules import COUNTERS, MARKER, SILENT, Features, Mode, Scope, features_of, scopes

_MARKER = re.compile(rf"{re.escape(MARKER)}, mode (node|pods), layout ([0-9a-f]+)")


@dataclass(frozen=True)
class Breaker:
    """The breaker of one control plane, for the connections of the node itself or of its Pods.

    `silent_for` is in seconds since the first evidence, None while the control plane answers. `silences` counts how
    often it fell silent, `cut` the connections that were reset, `refused` the new ones that were refused.
    """

    endpoint: Endpoint
    scope: Scope
    silent_for: int | None = None
    silences: int = 0
    cut: int = 0
    refused: int = 0

    def __str__(self) -> str:
        who = f"{self.endpoint}{' for Pods' if self.scope == 'pods' else ''}"
        cut = f"{self.cut} connection{'' if self.cut == 1 else 's'} cut"
        return f"{who} {self.state}, {cut}, {self.refused} refused"

    @property
    def state(self) -> str:
        """The state in words."""
        if self.silent_for is None:
            return "not silent"
        return f"silent for {f'{self.silent_for} s' if self.silent_for < 60 else format_duration(self.silent_for)}"


@dataclass(frozen=True)
class Table:
    """apiha's table as the kernel has it: `mode` and `layout` say what it was made from.

    `knocks` tells whether the tables that copy packets are there as well, made from the same.
    """

    mode: Mode
    layout: str
    control_planes: frozenset[Endpoint]
    breakers: tuple[Breaker, ...]
    knocks: bool = False

    @property
    def silent(self) -> tuple[Breaker, ...]:
        """The breakers that are open."""
        return tuple(breaker for breaker in self.breakers if breaker.silent_for is not None)

    def features(self, mode: Mode) -> Features | None:
        """What this version made it with for this mode; None if it was made otherwise, or a part of it is missing."""
        features = features_of(mode, self.layout)
        return features if features is not None and features.knock == self.knocks else None


def parse_table(document: Any) -> Table | None:
    """The table in the answer to `nft --json list table inet apiha`; None for a table that apiha did not make.

    Raises ValueError for what is not such an answer.
    """
    try:
        items = list(document["nftables"])
        marker = _find_marker(items)
        if marker is None:
            return None
        sets = {item["set"]["name"]: list(item["set"].get("elem", ())) for item in items if "set" in item}
        control_planes = frozenset(
            endpoint
            for name in ("control_planes4", "control_planes6")
            for endpoint, _ in _elements(sets, name)
        )
        mode: Mode = "pods" if marker[1] == "pods" else "node"
        breakers = [_breaker(sets, scope, e) for scope in scopes(mode) for e in sorted(control_planes)]
        return Table(mode, marker[2], control_planes, tuple(breakers))
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"not what `nft --json` is expected to say: {error!r}") from None


def parse_layout(document: Any) -> str | None:
    """The layout that a table says it was made from, in the answer to `nft --json list table`; None if not apiha's.

    Raises ValueError for what is not such an answer.
    """
    try:
        marker = _find_marker(document["nftables"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not what `nft --json` is expected to say: {error!r}") from None
    return marker[2] if marker else None


def _find_marker(items: Iterable[Any]) -> re.Match[str] | None:
    rules = (item["rule"] for item in items if "rule" in item)
    found = (_MARKER.fullmatch(str(rule.get("comment", ""))) for rule in rules if rule["chain"] == "about")
    return next((match for match in found if match), None)


def _breaker(sets: dict[str, list[Any]], scope: Scope, endpoint: Endpoint) -> Breaker:
    prefix = f"{scope}{6 if endpoint.is_ipv6 else 4}"
    silent = dict(_elements(sets, f"{prefix}_silent")).get(endpoint)
    counts = {
        name: dict(_elements(sets, f"{prefix}_{name}")).get(endpoint, {}).get("counter", {}).get("packets", 0)
        for name in COUNTERS
    }
    # An element carries what is left of its time; the rest has passed since the first evidence.
    since = None if silent is None else max(0, round(parse_duration(SILENT)) - int(silent.get("expires", 0)))
    return Breaker(endpoint, scope, since, **counts)


def _elements(sets: dict[str, list[Any]], name: str) -> Iterator[tuple[Endpoint, dict[str, Any]]]:
    """Endpoint and attributes of each element of a set of addresses."""
    for entry in sets.get(name, ()):
        attributes = entry.get("elem", {"val": entry})
        address, port = attributes["val"]["concat"]
        yield Endpoint(str(address), int(port)), attributes
