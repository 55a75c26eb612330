"""Order of trial, the hedged race, the VIP's proof, backoff: all pure, so all tested as properties."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiha.clock import backoff
from apiha.endpoint import Endpoint
from apiha.node.choice import (
    PROOF,
    REFUSALS,
    Race,
    VipProof,
    block_addresses,
    interleave,
    put_last,
    settled,
    worth_moving,
)
from apiha.probe import Health, ProbeResult, trial_order

THREE = tuple(Endpoint(f"10.0.0.{n}", 6443) for n in (11, 12, 13))

endpoints = st.builds(
    Endpoint, st.integers(1, 250).map(lambda n: f"10.0.0.{n}"), st.sampled_from([443, 6443, 8443])
)
endpoint_lists = st.lists(endpoints, unique=True, max_size=8)


# ---------------------------------------------------------------------------- order of trial


@given(st.text(), endpoint_lists)
def test_trial_order_is_a_permutation(node: str, among: list[Endpoint]) -> None:
    """Every control plane is tried, and each once."""
    assert sorted(trial_order(node, among)) == sorted(among)


@given(st.text(), endpoint_lists, st.randoms(use_true_random=False))
def test_trial_order_depends_on_the_set_only(node: str, among: list[Endpoint], rng: random.Random) -> None:
    """How the configuration orders or repeats the addresses does not matter."""
    shuffled = among * 2
    rng.shuffle(shuffled)
    assert trial_order(node, shuffled) == trial_order(node, among)


@given(st.text(), endpoint_lists.filter(bool), st.data())
def test_trial_order_of_the_others_survives_a_removal(
    node: str, among: list[Endpoint], data: st.DataObject
) -> None:
    """Removing a control plane (or adding one) leaves the relative order of the others."""
    removed = data.draw(st.sampled_from(among))
    without = trial_order(node, [endpoint for endpoint in among if endpoint != removed])
    assert without == tuple(endpoint for endpoint in trial_order(node, among) if endpoint != removed)


def test_trial_order_spreads_nodes_evenly() -> None:
    """Of 10,000 nodes each of the six orders of three control planes gets its share, within five sigma."""
    nodes = 10_000
    counts = Counter(trial_order(f"worker-{number}.example.test", THREE) for number in range(nodes))
    assert set(counts) == set(itertools.permutations(THREE))
    share = nodes / 6
    sigma = (nodes * (1 / 6) * (5 / 6)) ** 0.5
    assert all(abs(count - share) < 5 * sigma for count in counts.values()), counts


def test_trial_order_spreads_evenly_after_a_loss() -> None:
    """The nodes of a dead control plane go to the remaining ones in equal parts."""
    nodes = 10_000
    orders = [trial_order(f"worker-{number}", THREE) for number in range(nodes)]
    heirs = Counter(order[1] for order in orders if order[0] == THREE[0])
    orphans = sum(heirs.values())
    assert abs(heirs[THREE[1]] - orphans / 2) < 5 * (orphans / 4) ** 0.5


def test_trial_order_never_changes_between_versions() -> None:
    """A fixed example: another hash would move every node of every cluster to another control plane."""
    assert [endpoint.address for endpoint in trial_order("worker-1", THREE)] == [
        "10.0.0.12",
        "10.0.0.13",
        "10.0.0.11",
    ]
    assert [endpoint.address for endpoint in trial_order("worker-2", THREE)] == [
        "10.0.0.11",
        "10.0.0.13",
        "10.0.0.12",
    ]


# ---------------------------------------------------------------------------- the race


@dataclass(frozen=True)
class Candidate:
    """What a control plane will answer, and how long (seconds) after it was asked."""

    health: Health
    delay: float


@dataclass
class Played:
    """A race as it went: who was started when, what arrived when, and how it ended."""

    order: tuple[Endpoint, ...]
    starts: list[tuple[float, Endpoint]]
    arrivals: list[tuple[float, ProbeResult]]
    outcome: ProbeResult | None
    ended: float


def play(candidates: Sequence[Candidate], hedge_delay: float, timeout: float, start: float) -> Played:
    """Run a race in simulated time, as `find_live` runs it in real time."""
    order = tuple(Endpoint(f"10.0.0.{n}", 6443) for n in range(1, len(candidates) + 1))
    plans = dict(zip(order, candidates, strict=True))
    race = Race(order, hedge_delay, timeout)
    now = start
    starts: list[tuple[float, Endpoint]] = []
    arrivals: list[tuple[float, ProbeResult]] = []
    pending: list[tuple[float, int, ProbeResult]] = []
    for _ in range(20 * len(candidates) + 20):
        race.expire(now)
        if race.done(now):
            return Played(order, starts, arrivals, race.outcome(), now)
        while (endpoint := race.due(now)) is not None:
            starts.append((now, endpoint))
            plan = plans[endpoint]
            health, delay = (plan.health, plan.delay) if plan.delay < timeout else (Health.TIMEOUT, timeout)
            heapq.heappush(pending, (now + delay, len(starts), ProbeResult(endpoint, health)))
        wake = race.next_event()
        assert wake > now or pending, "the race waits for nothing"
        if pending and pending[0][0] <= wake:
            at, _, result = heapq.heappop(pending)
            now = max(now, at)
            arrivals.append((now, result))
            race.observe(result)
        else:
            now = wake
    raise AssertionError("the race does not end")


_delays = st.one_of(st.sampled_from([0.0, 0.01, 0.02, 0.15, 0.3, 2.0]), st.floats(0, 4))
_healths = st.one_of(
    st.sampled_from([Health.READY, Health.ALIVE, Health.NOT_READY]), st.sampled_from(list(Health))
)
_candidates = st.lists(st.builds(Candidate, _healths, _delays), min_size=1, max_size=6)
_races = st.builds(
    play,
    _candidates,
    hedge_delay=st.floats(0.01, 1),
    timeout=st.floats(0.05, 3),
    start=st.sampled_from([0.0, 17.25, 1e6, 5e9]),
)


@given(_candidates, st.floats(0.01, 1), st.floats(0.05, 3), st.sampled_from([0.0, 17.25, 1e6]))
def test_race_never_waits_longer_than_allowed(
    candidates: list[Candidate], hedge_delay: float, timeout: float, start: float
) -> None:
    """A race ends within one hedge delay for each further candidate and one time limit."""
    played = play(candidates, hedge_delay, timeout, start)
    assert played.ended - start <= (len(candidates) - 1) * hedge_delay + timeout + 1e-6


@given(_races)
def test_race_starts_each_candidate_at_most_once_and_in_order(played: Played) -> None:
    """No control plane is asked twice in a race, and they are asked in the node's order."""
    started = [endpoint for _, endpoint in played.starts]
    assert tuple(started) == played.order[: len(started)]


@given(_races)
def test_race_winner_is_genuine_and_the_best_that_answered(played: Played) -> None:
    """Ready beats hidden beats not ready; an untrusted, broken or silent candidate never wins."""
    answered = {result.health for _, result in played.arrivals}
    best = next((h for h in (Health.READY, Health.ALIVE, Health.NOT_READY) if h in answered), None)
    assert (played.outcome.health if played.outcome else None) is best
    if played.outcome is not None:
        assert played.outcome.health.genuine
        assert played.outcome in [result for _, result in played.arrivals]


@given(_races)
def test_race_ends_with_the_first_ready_answer(played: Played) -> None:
    """Nobody waits, and nobody else is asked, once a ready answer is there."""
    ready = [at for at, result in played.arrivals if result.health is Health.READY]
    if ready:
        assert played.ended == ready[0]
        assert played.outcome is not None
        assert played.outcome.health is Health.READY


@given(_candidates, st.floats(0.01, 1), st.floats(0.05, 3))
def test_race_finds_a_ready_candidate_if_there_is_one(
    candidates: list[Candidate], hedge_delay: float, timeout: float
) -> None:
    """A candidate that answers ready within its time wins, unless a hidden one cut the wait short."""
    played = play(candidates, hedge_delay, timeout, 0.0)
    ready = any(c.health is Health.READY and c.delay < timeout for c in candidates)
    hidden = any(c.health is Health.ALIVE and c.delay < timeout for c in candidates)
    if ready and not hidden:
        assert played.outcome is not None
        assert played.outcome.health is Health.READY
    if ready or hidden:
        assert played.outcome is not None
        assert played.outcome.health.usable


@given(_candidates, st.floats(0.01, 1), st.floats(0.05, 3))
def test_race_starts_early_only_after_a_failure(
    candidates: list[Candidate], hedge_delay: float, timeout: float
) -> None:
    """Between two starts lies the hedge delay, or an answer that was not a ready one."""
    played = play(candidates, hedge_delay, timeout, 0.0)
    for (before, _), (after, _) in itertools.pairwise(played.starts):
        failed = any(before <= at <= after and r.health is not Health.READY for at, r in played.arrivals)
        expired = any(at + timeout <= after for at, _ in played.starts)
        assert after >= before + hedge_delay or failed or expired


@given(_candidates, st.floats(0.01, 1), st.floats(0.05, 3))
def test_race_follows_a_failure_at_once(
    candidates: list[Candidate], hedge_delay: float, timeout: float
) -> None:
    """Each failure starts the next candidate in the same moment, while there is one."""
    played = play(candidates, hedge_delay, timeout, 0.0)
    if any(result.health is Health.READY for _, result in played.arrivals):
        return
    start_times = [at for at, _ in played.starts]
    for at, _ in played.arrivals:
        still_waiting = sum(1 for started in start_times if started >= at)
        if still_waiting and at < played.ended:
            assert at in start_times


def test_race_asks_one_candidate_if_it_is_ready_in_time() -> None:
    """A healthy cluster sees one handshake: the second candidate is not asked."""
    played = play([Candidate(Health.READY, 0.02), *[Candidate(Health.READY, 0.0)] * 4], 0.15, 2.0, 0.0)
    assert len(played.starts) == 1
    assert played.ended == 0.02


def test_race_prefers_ready_to_hidden_to_not_ready() -> None:
    """A ready answer beats a hidden one that came first, and that one a candidate that is not ready."""
    healths = [Health.NOT_READY, Health.ALIVE, Health.READY]
    for count, best in ((3, Health.READY), (2, Health.ALIVE), (1, Health.NOT_READY)):
        played = play([Candidate(health, 0.01) for health in healths[:count]], 0.15, 2.0, 0.0)
        assert played.outcome is not None
        assert played.outcome.health is best


def test_race_asks_nobody_after_a_ready_answer() -> None:
    """With a winner there, no further candidate is handed out, whatever the time."""
    race = Race(THREE, 0.15, 2.0)
    assert race.due(0.0) == THREE[0]
    race.observe(ProbeResult(THREE[0], Health.READY))
    assert race.due(0.0) is None
    assert race.due(100.0) is None


def test_race_takes_a_hidden_one_after_every_candidate_had_its_chance() -> None:
    """With one hidden and the others silent, the wait is a hedge delay for each, not their time limits."""
    played = play([Candidate(Health.ALIVE, 0.01), *[Candidate(Health.TIMEOUT, 9)] * 2], 0.15, 2.0, 0.0)
    assert played.outcome is not None
    assert played.outcome.health is Health.ALIVE
    assert played.ended == pytest.approx(0.01 + 0.15 + 0.15)


def test_race_ignores_what_it_did_not_ask_for() -> None:
    """An answer for an address that was not started, and a second answer for one that was, change nothing."""
    race = Race(THREE, 0.15, 2.0)
    race.observe(ProbeResult(THREE[0], Health.READY))
    assert race.outcome() is None
    assert race.due(0.0) == THREE[0]
    race.observe(ProbeResult(THREE[0], Health.UNTRUSTED))
    race.observe(ProbeResult(THREE[0], Health.READY))
    race.observe(ProbeResult(Endpoint("10.0.0.99", 6443), Health.READY))
    assert race.outcome() is None


def test_race_without_candidates_is_over() -> None:
    """Nobody to ask: done at once, no winner."""
    race = Race((), 0.15, 2.0)
    assert race.due(0.0) is None
    assert race.done(0.0)
    assert race.outcome() is None


# ---------------------------------------------------------------------------- the block's addresses


@given(endpoint_lists, st.data())
def test_block_lists_everybody_once_the_chosen_first_the_dead_last(
    order: list[Endpoint], data: st.DataObject
) -> None:
    """The chosen address leads, then the others in this node's order, those known to be dead at the end."""
    first = data.draw(st.sampled_from(["10.96.0.100", *(endpoint.address for endpoint in order)]))
    healths = data.draw(
        st.dictionaries(st.sampled_from(order) if order else endpoints, st.sampled_from(Health))
    )
    vip = data.draw(st.sampled_from([None, "10.96.0.100"]))
    results = {endpoint: ProbeResult(endpoint, health) for endpoint, health in healths.items()}
    addresses = block_addresses(first, order, fallbacks=True, results=results, vip=vip)
    kept = [e for e in order if healths.get(e) not in (Health.UNTRUSTED, Health.BROKEN)]
    assert addresses[0] == first
    assert len(set(addresses)) == len(addresses)
    assert set(addresses) == {first, *(e.address for e in kept), *([vip] if vip else [])}
    assert vip in (None, first, addresses[-1])
    dead = {e for e, health in healths.items() if not health.genuine}
    live = list(dict.fromkeys(e.address for e in kept if e not in dead and e.address != first))
    assert list(addresses[1:])[: len(live)] == live


@given(endpoint_lists)
def test_block_has_one_address_without_fallbacks(order: list[Endpoint]) -> None:
    """`fallbacks: false` gives the single line."""
    assert block_addresses("10.96.0.100", order, fallbacks=False) == ("10.96.0.100",)


@given(st.lists(endpoint_lists, max_size=4))
def test_sources_are_tried_in_turns(sources: list[list[Endpoint]]) -> None:
    """Each address once; the n-th of any source comes within the first n rounds, however long the others are."""
    order = interleave(*sources)
    assert len(set(order)) == len(order)
    assert set(order) == {endpoint for source in sources for endpoint in source}
    for source in sources:
        for number, endpoint in enumerate(source):
            assert order.index(endpoint) < (number + 1) * len(sources)


def test_what_is_worth_a_move() -> None:
    """Usable beats not ready beats dead; nothing is moved among equals."""
    classes: list[list[Health | None]] = [
        [None, Health.REFUSED, Health.TIMEOUT, Health.UNREACHABLE, Health.UNTRUSTED, Health.BROKEN],
        [Health.NOT_READY],
        [Health.ALIVE, Health.READY],
    ]
    for worse, lower in enumerate(classes):
        for better, upper in enumerate(classes):
            for now, to in itertools.product(lower, upper):
                if to is not None:
                    assert worth_moving(now, to) == (better > worse)


# ---------------------------------------------------------------------------- VIP, backoff


@given(st.lists(st.sampled_from([*Health, *[Health.REFUSED] * 6]), max_size=12))
def test_vip_is_proven_and_lost_by_the_last_answers_in_a_row(answers: list[Health]) -> None:
    """Proven exactly if the last three answers came from a usable API server; lost after three failures in a row, of
    which none is a refusal, or nine of any kind.
    """
    proof = VipProof()
    for health in answers:
        proof = proof.after(ProbeResult(THREE[0], health))
    last = [health in (Health.READY, Health.ALIVE) for health in answers[-PROOF:]]
    assert proof.proven == (len(last) == PROOF and all(last))
    failures = list(
        itertools.takewhile(lambda health: health not in (Health.READY, Health.ALIVE), reversed(answers))
    )
    slow = sum(health is not Health.REFUSED for health in failures)
    assert proof.lost == (slow >= PROOF or len(failures) >= REFUSALS)
    for swapped in (True, False):
        agrees = bool(last) and last[-1] is swapped
        assert proof.settled(swapped=swapped) == (agrees or proof.proven or proof.lost)


@given(st.integers(0, 10**9), st.integers())
def test_backoff_doubles_up_to_its_cap_half_of_it_random(attempt: int, seed: int) -> None:
    """Never zero, never beyond the cap, between half and all of the doubled base."""
    span = min(5.0, 0.5 * 2.0 ** min(attempt, 64))
    assert span / 2 <= backoff(attempt, random.Random(seed)) <= span


def test_backoff_spreads_nodes() -> None:
    """Nodes that failed at the same moment do not come back at the same moment."""
    waits = {round(backoff(3, random.Random(seed)), 2) for seed in range(1000)}
    assert len(waits) > 100


@given(endpoint_lists, st.data())
def test_drained_control_planes_are_tried_last(order: list[Endpoint], data: st.DataObject) -> None:
    """Nobody is left out, and nothing else changes places."""
    drained = data.draw(st.sets(st.sampled_from(order))) if order else set[Endpoint]()
    wanted = put_last(order, {endpoint.address for endpoint in drained})
    held = {endpoint.address for endpoint in drained}
    assert list(wanted) == [e for e in order if e.address not in held] + [
        e for e in order if e.address in held
    ]


def test_a_block_is_written_for_a_drained_fallback_and_for_no_other_order() -> None:
    """The order of fallbacks is left alone, unless a drained one stands before the others."""
    block = ("10.96.0.100", "10.0.0.11", "10.0.0.12", "10.0.0.13")
    wanted = ("10.96.0.100", "10.0.0.12", "10.0.0.13", "10.0.0.11")
    assert settled(block, wanted) == block
    assert settled(block, wanted, {"10.0.0.11"}) == wanted
    assert settled(wanted, wanted, {"10.0.0.11"}) == wanted
