"""What is said of drained control planes: problems, a metric, Events. Decides nothing.

Reads: what the writer tells. Writes: problems (and so the log), metrics, and what the announcer is to announce.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from apiha.clock import Clock
from apiha.drained import ANNOTATION, FORGOTTEN, Drain, Drained
from apiha.updater.events import Announcer
from apiha.updater.mirror import Plan
from apiha.updater.problems import ProblemKey, Problems

if TYPE_CHECKING:
    from apiha.updater.metrics import Metrics


class DrainReport:
    """Hears what the Service says of drains, and what became of it; called by the writer's thread only."""

    def __init__(self, problems: Problems, metrics: Metrics, announcer: Announcer, clock: Clock) -> None:
        self._problems = problems
        self._metrics = metrics
        self._announcer = announcer
        self._clock = clock
        self._shown: frozenset[str] = frozenset()
        self._announced: dict[ProblemKey, str] = {}

    def read(self, drained: Drained, present: Collection[str], *, announce: bool) -> None:
        """The Service's annotation says this; `present` are the addresses of the control planes there are now.

        `announce`: this replica leads, so its Events are the ones to write.
        """
        for address in self._shown - drained.addresses:
            self._metrics.drained.remove(address)
        self._shown = drained.addresses
        for drain in drained.drains:
            self._metrics.drained.labels(drain.address).set(1)
        message = _unusable(drained) if drained.problems else None
        self._say("drained", message, "solved", "DrainNotReadable" if announce else None)
        now = self._clock.now()
        forgotten = [_forgotten(drain, present) for drain in drained.drains if drain.forgotten(now)]
        message = (
            f"{'; '.join(forgotten)}: end it with `apiha control-plane undrain ADDRESS`"
            if forgotten
            else None
        )
        self._say("drained-long", message, "solved", "DrainForgotten" if announce else None)

    def planned(self, wanted: Plan) -> None:
        """The leader decided on this."""
        message = (
            f"{', '.join(map(str, wanted.drained_in_use))} is drained and used all the same, because no other control "
            "plane is ready: do not stop it; look at the others"
            if wanted.drained_in_use
            else None
        )
        self._say("drained-in-use", message, "another control plane is ready", "DrainedInUse")

    def _say(self, key: ProblemKey, message: str | None, solved: str, reason: str | None) -> None:
        """A problem, or its end; `reason` is that of its Event, None on a replica that does not lead.

        One that leads later announces then what it had only logged before.
        """
        self._problems.set(key, message, solved)
        if message is None:
            self._announced.pop(key, None)
        elif reason is not None and self._announced.get(key) != message:
            self._announced[key] = message
            self._announcer.warn(reason, message)


def _unusable(drained: Drained) -> str:
    part, rest = (" in part", "; the rest of it holds") if drained.drains else ("", "")
    return (
        f"the annotation {ANNOTATION} of the Service cannot be used{part}: {'; '.join(drained.problems)}{rest}. To fix "
        "it: `apiha control-plane undrain ADDRESS`, or `kubectl annotate`"
    )


def _forgotten(drain: Drain, present: Collection[str]) -> str:
    assert drain.since is not None
    state = (
        "answers as a control plane" if drain.address in present else "is gone from the Service kubernetes"
    )
    since = f"{drain.since:%Y-%m-%d}, for more than {FORGOTTEN.days} days"
    return f"{drain.address} has been drained since {since}, and {state}"
