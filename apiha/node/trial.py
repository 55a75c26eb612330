"""Asking: the race among control planes, the trial of the VIP, a look at the fallbacks. The rules are in `choice`."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable

from apiha.clock import Clock
from apiha.endpoint import Endpoint
from apiha.node.choice import Race, VipProof
from apiha.probe import ProbeResult, probe_all

PROOF_INTERVAL = 0.2  # seconds between the answers that decide about a VIP


def find_live(
    probe: Callable[[Endpoint], ProbeResult], race: Race, clock: Clock, *, until: float | None = None
) -> ProbeResult | None:
    """Run the race with real probes; the winner, or None. `until` (monotonic seconds) ends it early.

    Probes that lost go on in daemon threads until their own time limit; nobody waits for them.
    """
    answers: queue.SimpleQueue[ProbeResult] = queue.SimpleQueue()
    while True:
        now = clock.monotonic()
        race.expire(now)
        if race.done(now) or (until is not None and now >= until):
            return race.outcome()
        while (candidate := race.due(now)) is not None:
            threading.Thread(target=lambda e=candidate: answers.put(probe(e)), daemon=True).start()
        wake = race.next_event() if until is None else min(race.next_event(), until)
        try:
            race.observe(answers.get(timeout=max(0.0, wake - clock.monotonic())))
        except queue.Empty:
            continue


def ask_vip(
    probe: Callable[[], ProbeResult], *, swapped: bool, pause: Callable[[float], None]
) -> ProbeResult:
    """Whether to rely on the VIP, by as many probes as that takes; the result stands for the verdict.

    `swapped` is whether the block says VIP first now, `pause` takes seconds. No more probes than `VipProof` needs.
    """
    proof = VipProof()
    while True:
        result = probe()
        proof = proof.after(result)
        if proof.settled(swapped=swapped):
            return proof.best_failure or result
        pause(PROOF_INTERVAL)


def survey(
    probe: Callable[[Endpoint], ProbeResult], endpoints: Iterable[Endpoint]
) -> dict[Endpoint, ProbeResult]:
    """What each address answers, all asked at once: takes as long as the slowest, at most one probe's time limit."""
    asked = tuple(endpoints)
    return dict(zip(asked, probe_all(probe, asked), strict=True))
