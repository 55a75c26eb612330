"""What a node knows of the control planes, as the Pod of its installer says it: one line of its log. Pure.

    {"time": "...", "level": "info", "message": "...", "event": "learned",
     "control_planes": ["10.0.0.11:6443", "10.0.0.12:6443"], "drained": ["10.0.0.12"]}

The Pod has no way to the API, but whoever may read its log has one to the Pod. The node says it after each run
(`cli/installer.py`), the Pod passes it on (`install/pod.py`), `apiha control-plane list` reads it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from apiha.endpoint import Endpoint

EVENT = "learned"  # the field `event` of that line, and of no other
MOST = 32  # addresses in each of the two lists; a node keeps no more
_LONGEST = 16384  # characters of a line that is looked at; 64 addresses with their frame are less than 4,000


@dataclass(frozen=True)
class Known:
    """The control planes that a node has learned of, and the addresses of those that it holds as drained."""

    control_planes: frozenset[Endpoint] = frozenset()
    drained: frozenset[str] = frozenset()

    @classmethod
    def of(cls, control_planes: Iterable[Endpoint], drained: Iterable[str]) -> Known:
        """The first `MOST` of each."""
        return cls(frozenset(islice(control_planes, MOST)), frozenset(islice(drained, MOST)))

    @property
    def message(self) -> str:
        """The line for people."""
        return (
            f"control planes learned by this node: {len(self.control_planes)}, drained: {len(self.drained)}"
        )

    def fields(self) -> dict[str, object]:
        """What the line has besides, for programs."""
        return {
            "event": EVENT,
            "control_planes": [str(endpoint) for endpoint in sorted(self.control_planes)],
            "drained": sorted(self.drained),
        }


def of_line(line: str) -> Known | None:
    """What a line of a log says; None for every other line. Never raises: an address that is none is left out."""
    if len(line) > _LONGEST:
        return None
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or event.get("event") != EVENT:
        return None
    planes, drained = event.get("control_planes"), event.get("drained")
    if not isinstance(planes, list) or not isinstance(drained, list):
        return None
    return Known.of(_endpoints(planes), (endpoint.address for endpoint in _endpoints(drained)))


def last_of(log: str) -> Known | None:
    """What the newest such line of a log says; None if it has none."""
    return next(filter(None, map(of_line, reversed(log.split("\n")))), None)


def _endpoints(values: Iterable[object]) -> Iterable[Endpoint]:
    for value in values:
        try:
            if isinstance(value, str):
                yield Endpoint.parse(value, 6443)
        except ValueError:
            continue
