"""What happens to whom, and when: drawn from a seed, so that a failure can be tried again. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "stop",
    "start",
    "sick",
    "well",
    "proxy-off",
    "proxy-on",
    "power-cut",
    "kill",
    "write",
    "append",
    "storm-end",
]

STORM = (4.0, 9.0)  # seconds of faults, then a calm in which everything must come right
EVENTS_PER_SECOND = 3.0
# How often each thing happens, relative to the others.
WEIGHTS: dict[Kind, int] = {
    "stop": 4,  # a control plane's process dies
    "start": 5,  # ... and is back
    "sick": 1,  # it answers 500 to everything, as without etcd
    "well": 2,
    "proxy-off": 2,  # the rules of a worker's Service proxy are gone: its VIP refuses
    "proxy-on": 1,
    "power-cut": 2,  # a worker: every process of apiha on it dies at once, then it boots
    "kill": 4,  # SIGKILL to one process of apiha, whatever it is doing
    "write": 5,  # another program replaces the hosts file by a rename
    "append": 3,  # another program appends a line in place
}


@dataclass(frozen=True)
class Event:
    """Something that happens `at` seconds after the start of its storm; `target` is drawn from [0, 1)."""

    at: float
    kind: Kind
    target: float


def storm(seed: int, cycle: int) -> list[Event]:
    """The events of one storm, in order. The same seed and cycle give the same events."""
    rng = random.Random(f"{seed}/{cycle}")
    length = rng.uniform(*STORM)
    count = int(length * EVENTS_PER_SECOND)
    kinds = rng.choices(list(WEIGHTS), weights=list(WEIGHTS.values()), k=count)
    times = sorted(rng.uniform(0.0, length) for _ in range(count))
    events = [Event(at, kind, rng.random()) for at, kind in zip(times, kinds, strict=True)]
    return [*events, Event(length, "storm-end", rng.random())]
