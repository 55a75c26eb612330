"""Kubernetes Events on the Service: what `kubectl events` shows of its addresses.

Reads: what it is told. Writes: Events, in a thread of its own; one that cannot be written is dropped and holds up
nothing.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from apiha.clock import Clock
from apiha.endpoint import Endpoint
from apiha.updater.mirror import MANAGED_BY
from apiha.updater.requests import ApiError, Object

_BURST = 10  # as client-go's event correlator limits a source, if more kindly: 25 at once, then one in 300 s
_REFILL = 10.0  # s
DRAINED = "drained"  # the reason of one that somebody took out of service
_LONGEST_NOTE = 1000  # bytes; the API allows 1024 (events.k8s.io/v1, `note`)


@dataclass(frozen=True)
class Addresses:
    """What the mirrored slices say."""

    mirrored: frozenset[Endpoint] = frozenset()
    ready: frozenset[Endpoint] = frozenset()


def describe(before: Addresses, after: Addresses, reasons: dict[Endpoint, str]) -> str | None:
    """The change in words, None if there is none; `reasons` say why an address is not ready."""

    def names(endpoints: frozenset[Endpoint]) -> str:
        return ", ".join(str(endpoint) for endpoint in sorted(endpoints))

    parts = []
    if added := after.mirrored - before.mirrored:
        parts.append(f"added {names(added)}")
    if removed := before.mirrored - after.mirrored:
        parts.append(f"removed {names(removed)}")
    for endpoint in sorted((before.ready - after.ready) & after.mirrored):
        why = reasons.get(endpoint)
        parts.append(f"{endpoint} unready" + (f" ({why})" if why else ""))
    if returned := (after.ready - before.ready) & before.mirrored:
        parts.append(f"{names(returned)} ready again")
    if not parts:
        return None
    return f"{'; '.join(parts)}: {len(after.ready)} of {len(after.mirrored)} control planes ready"


class Announcer:
    """Writes Events, few at a time: states that follow each other fast become one Event."""

    def __init__(
        self,
        clock: Clock,
        *,
        namespace: str,
        service: str,
        identity: str,
    ) -> None:
        self._clock = clock
        self._namespace = namespace
        self._service = service
        self._identity = identity
        self._condition = threading.Condition()
        self._told = Addresses()
        self._now = Addresses()
        self._reasons: dict[Endpoint, str] = {}
        self._notes: list[tuple[str, str]] = []
        self._uid: str | None = None

    def start_from(self, state: Addresses) -> None:
        """A new leader: this state was announced already."""
        with self._condition:
            self._told = self._now = state

    def addresses(self, state: Addresses, reasons: dict[Endpoint, str]) -> None:
        """The slices say this now."""
        with self._condition:
            self._now, self._reasons = state, dict(reasons)
            self._condition.notify()

    def warn(self, reason: str, note: str) -> None:
        """A Warning Event; `reason` in UpperCamelCase."""
        with self._condition:
            if len(self._notes) < _BURST:
                self._notes.append((reason, note))
                self._condition.notify()

    def service_uid(self, uid: str | None) -> None:
        """The Service's uid, so that `kubectl describe` finds the Events."""
        self._uid = uid

    def run(
        self,
        stop: threading.Event,
        create: Callable[[Object], None],
        on_dropped: Callable[[ApiError], None],
    ) -> None:
        """The announcer's thread: `create` writes an Event or raises ApiError, which `on_dropped` hears of."""
        tokens, filled = float(_BURST), self._clock.monotonic()
        while not stop.is_set():
            with self._condition:
                self._condition.wait_for(
                    lambda: self._notes or self._now != self._told or stop.is_set(), timeout=1.0
                )
            now = self._clock.monotonic()
            tokens, filled = min(_BURST, tokens + (now - filled) / _REFILL), now
            if tokens < 1.0:
                stop.wait(1.0)
                continue
            with self._condition:
                kind: Literal["Normal", "Warning"] = "Normal"
                if self._notes:
                    kind, (reason, note) = "Warning", self._notes.pop(0)
                elif words := describe(self._told, self._now, self._reasons):
                    lost = self._now.ready < self._told.ready and any(
                        self._reasons.get(endpoint) != DRAINED
                        for endpoint in self._told.ready - self._now.ready
                    )
                    kind, reason, note = "Warning" if lost else "Normal", "ControlPlanesChanged", words
                    self._told = self._now
                else:
                    self._told = self._now
                    continue
            tokens -= 1.0
            try:
                create(self._event(kind, reason, note, self._clock.now()))
            except ApiError as error:
                on_dropped(error)

    def _event(self, kind: str, reason: str, note: str, at: datetime) -> Object:
        regarding = {
            "apiVersion": "v1",
            "kind": "Service",
            "namespace": self._namespace,
            "name": self._service,
        }
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": f"{self._service}.{secrets.token_hex(8)}", "namespace": self._namespace},
            "eventTime": at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": MANAGED_BY,
            "reportingInstance": self._identity[:128],
            "action": "Mirror",
            "reason": reason,
            "regarding": {**regarding, **({"uid": self._uid} if self._uid else {})},
            "note": note.encode()[:_LONGEST_NOTE].decode(errors="ignore"),
            "type": kind,
        }
