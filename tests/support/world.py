"""A node in a scripted world: the clock and what each address answers follow a script, nothing is really asked."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import Any

from apiha.endpoint import Endpoint
from apiha.hosts import current
from apiha.node.context import Node
from apiha.probe import Health, ProbeResult, trial_order

HOST = "apiserver.cluster.local"
VIP = Endpoint("10.96.0.100", 6443)
PLANES = tuple(Endpoint(f"10.0.0.{number}", 6443) for number in (11, 12, 13))
A, B, C = trial_order("worker-1", PLANES)
READY, ALIVE, NOT_READY = Health.READY, Health.ALIVE, Health.NOT_READY
REFUSED, TIMEOUT, UNTRUSTED = Health.REFUSED, Health.TIMEOUT, Health.UNTRUSTED


class FakeClock:
    """Time passes when somebody sleeps, and at no other time."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.sleeps: list[float] = []

    def monotonic(self) -> float:
        """Seconds."""
        return self.time

    def now(self) -> datetime:
        """The calendar time, as far from its start as the seconds are."""
        return datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=self.time)

    def sleep(self, seconds: float) -> None:
        """Let that much time pass at once."""
        self.sleeps.append(seconds)
        self.time += max(0.0, seconds)
        if len(self.sleeps) > 100_000:
            raise AssertionError("this never ends")


@dataclass
class World:
    """What each address answers, as a function of the seconds since the start; what was asked, and when."""

    clock: FakeClock = field(default_factory=FakeClock)
    answers: dict[Endpoint, Callable[[float], Health]] = field(default_factory=dict)
    asked: list[tuple[float, Endpoint]] = field(default_factory=list)
    observe: Callable[[ProbeResult], None] | None = None

    def __post_init__(self) -> None:
        self.start = self.clock.time

    @property
    def elapsed(self) -> float:
        """Seconds since the world was made."""
        return self.clock.time - self.start

    def says(self, endpoint: Endpoint, *healths: Health) -> None:
        """One answer after the other, the last one for ever."""
        left = list(healths)
        self.answers[endpoint] = lambda _: left.pop(0) if len(left) > 1 else left[0]

    def from_then_on(self, endpoint: Endpoint, seconds: float, before: Health, after: Health) -> None:
        """One answer until that many seconds have passed, another one after."""
        self.answers[endpoint] = lambda elapsed: before if elapsed < seconds else after

    def probe(self, endpoint: Endpoint) -> ProbeResult:
        """What `Prober.probe` would say."""
        self.asked.append((self.elapsed, endpoint))
        answer = self.answers.get(endpoint)
        health = answer(self.elapsed) if answer else REFUSED
        result = ProbeResult(endpoint, health, latency=0.001, detail=f"{health.value} it is")
        if self.observe is not None:
            self.observe(result)
        return result

    def timeless(self) -> World:
        """The world as a prober sees it that does not mind the clock; this one sees no more."""
        return self

    def times(self, endpoint: Endpoint) -> list[float]:
        """When an address was asked."""
        return [when for when, who in self.asked if who == endpoint]


def block(node: Node) -> list[str]:
    """The addresses of the block."""
    return list(current(node.hosts.read(), HOST).addresses)


def with_config(node: Node, **settings: Any) -> Node:
    """The node with some settings changed."""
    node.config = replace(node.config, **settings)
    return node


def events(log: io.StringIO) -> list[dict[str, Any]]:
    """Everything that was said."""
    return [json.loads(line) for line in log.getvalue().splitlines()]
