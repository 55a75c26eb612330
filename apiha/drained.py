"""Which control planes are drained: one annotation on the Service `apiserver`, read and written here only. Pure.

    metadata:
      annotations:
        apiserver-updater.apiha/drained: 10.0.0.12@2026-11-24T17:39:11Z

`ADDRESS@TIME` for each, separated by commas; TIME (UTC) is when the drain began and may be left out, so that
`kubectl annotate` can do it too. `apiha control-plane drain` writes it, the updater and the nodes read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from apiha.documents import at
from apiha.endpoint import parse_ip

ANNOTATION = "apiserver-updater.apiha/drained"
MOST = 32  # entries; no cluster has more control planes
FORGOTTEN = timedelta(
    days=7
)  # a drain that lasts longer is reported: maintenance ends, or the machine is gone for good
_LONGEST = 4096  # characters; 32 entries need less than 2,200
_TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True)
class Drain:
    """One drained control plane, by its address in canonical form; `since` (UTC) is None if nobody wrote it down."""

    address: str
    since: datetime | None = None

    def __str__(self) -> str:
        return self.address if self.since is None else f"{self.address}@{self.since.strftime(_TIME)}"

    def forgotten(self, now: datetime) -> bool:
        """Whether it lasts for longer than `FORGOTTEN`."""
        return self.since is not None and now - self.since > FORGOTTEN


@dataclass(frozen=True)
class Drained:
    """What the annotation says. `problems` are the parts that cannot be used, a line each; the rest holds."""

    drains: tuple[Drain, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def addresses(self) -> frozenset[str]:
        """The drained addresses."""
        return frozenset(drain.address for drain in self.drains)

    def of(self, address: str) -> Drain | None:
        """The drain of this address, if it is drained."""
        return next((drain for drain in self.drains if drain.address == address), None)

    def having(self, drain: Drain) -> Drained:
        """With one more; one that is there already keeps its time."""
        return self if self.of(drain.address) else Drained((*self.drains, drain))

    def without(self, address: str) -> Drained:
        """Without this one."""
        return Drained(tuple(drain for drain in self.drains if drain.address != address))

    def text(self) -> str | None:
        """The annotation's value; None where there is nothing to write."""
        return ",".join(map(str, self.drains)) or None


def of_service(service: Mapping[str, Any] | None) -> Drained:
    """The drained control planes of a Service as the API server gave it; none for None, or without the annotation."""
    value = at(service, "metadata", "annotations", ANNOTATION)
    return parse(value) if isinstance(value, str) else Drained()


def parse(text: str) -> Drained:
    """Read the annotation's value. Never raises: what cannot be used is left out, and named in `problems`."""
    if len(text) > _LONGEST:
        return Drained(problems=(f"longer than {_LONGEST} characters; nothing of it is used",))
    found: dict[str, Drain] = {}
    problems: list[str] = []
    for part in _parts(text):
        try:
            drain, doubt = _parse_one(part)
        except ValueError as error:
            problems.append(str(error))
            continue
        problems += [doubt] if doubt else []
        if len(found) == MOST and drain.address not in found:
            problems.append(f"more than {MOST} addresses; {drain.address} and later ones are not used")
            break
        found.setdefault(drain.address, drain)
    return Drained(tuple(found.values()), tuple(problems))


def _parts(text: str) -> Iterable[str]:
    return (part for part in (part.strip() for part in text.split(",")) if part)


def _parse_one(part: str) -> tuple[Drain, str | None]:
    """`ADDRESS` or `ADDRESS@TIME`, and what is wrong with the time; raises ValueError for the address.

    The address is what counts: a time that cannot be read must not put a machine under maintenance back to work.
    """
    address, at, time = (piece.strip() for piece in part.partition("@"))
    try:
        canonical = parse_ip(address)
    except ValueError:
        raise ValueError(f"{address[:60]!r} is not an IPv4 or IPv6 address") from None
    if not at:
        return Drain(canonical), None
    try:
        return Drain(canonical, datetime.strptime(time, _TIME).replace(tzinfo=timezone.utc)), None
    except ValueError:
        return Drain(
            canonical
        ), f"{time[:60]!r} is not a time like 2026-11-24T17:39:11Z; {canonical} counts as drained"
