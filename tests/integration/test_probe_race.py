"""The hedged trial with real servers: who is asked, when the next one is, and who wins."""

from __future__ import annotations

import time

import pytest

from apiha.clock import SystemClock
from apiha.node.choice import Race
from apiha.node.trial import find_live
from apiha.probe import Health, ProbeResult, trial_order
from tests.support.control_plane import IMPOSTORS, Authority, ControlPlane, TcpForwarder, control_planes
from tests.support.probing import MakeProber, StartPlane, endpoint_of, eventually

NEVER = 60.0  # seconds; a delay or time limit that no passing test reaches
BOUND = 20.0  # seconds; generous, and far from NEVER


def _race(
    make_prober: MakeProber, planes: list[ControlPlane], *, hedge_delay: float, timeout: float = NEVER
) -> ProbeResult | None:
    race = Race(tuple(endpoint_of(plane) for plane in planes), hedge_delay, timeout)
    began = time.monotonic()
    winner = find_live(make_prober(timeout=timeout).probe, race, SystemClock())
    assert time.monotonic() - began < BOUND
    return winner


def _handshakes(planes: list[ControlPlane]) -> list[int]:
    return [plane.counters.handshakes for plane in planes]


def test_healthy_cluster_sees_one_handshake(authority: Authority, make_prober: MakeProber) -> None:
    """With all control planes up, a worker makes one connection: to the first of its own order."""
    with control_planes(authority, ["127.0.0.11", "127.0.0.12", "127.0.0.13"]) as planes:
        by_endpoint = {endpoint_of(plane): plane for plane in planes}
        for node in ("worker-1", "worker-2", "worker-3"):
            order = trial_order(node, by_endpoint)
            before = sum(_handshakes(planes))
            winner = _race(make_prober, [by_endpoint[endpoint] for endpoint in order], hedge_delay=NEVER)
            assert winner is not None
            assert winner.endpoint == order[0]
            assert sum(_handshakes(planes)) == before + 1
        assert sum(plane.counters.connections for plane in planes) == 3


@pytest.mark.parametrize("behaviour", ["blackholed", "silent", "tls_silent", "drip", "endless_informational"])
def test_next_candidate_starts_after_the_hedge_delay(
    behaviour: str, start_plane: StartPlane, make_prober: MakeProber
) -> None:
    """A first choice that does not answer costs the hedge delay, not its time limit."""
    planes = [start_plane(behaviour), start_plane(address="127.0.0.12"), start_plane(address="127.0.0.13")]
    winner = _race(make_prober, planes, hedge_delay=0.1)
    assert winner is not None
    assert winner.endpoint in [endpoint_of(plane) for plane in planes[1:]]


@pytest.mark.parametrize("behaviour", ["reset", "reset_response", "http10", "not_ready", *IMPOSTORS[:2]])
def test_next_candidate_starts_at_once_on_a_failure(
    behaviour: str, start_plane: StartPlane, make_prober: MakeProber
) -> None:
    """A first choice that fails is followed at once, however long the hedge delay."""
    planes = [start_plane(behaviour), start_plane(address="127.0.0.12"), start_plane(address="127.0.0.13")]
    winner = _race(make_prober, planes, hedge_delay=NEVER)
    assert winner is not None
    assert (winner.endpoint, winner.health) == (endpoint_of(planes[1]), Health.READY)
    assert planes[2].counters.connections == 0


def test_refused_candidates_are_passed_over_at_once(start_plane: StartPlane, make_prober: MakeProber) -> None:
    """Two dead control planes before the live one delay nothing."""
    planes = [start_plane(address=f"127.0.0.{n}") for n in (11, 12, 13)]
    planes[0].stop()
    planes[1].stop()
    winner = _race(make_prober, planes, hedge_delay=NEVER)
    assert winner is not None
    assert winner.endpoint == endpoint_of(planes[2])


def test_slow_first_choice_loses_to_a_ready_one(start_plane: StartPlane, make_prober: MakeProber) -> None:
    """The first ready answer wins, and nobody waits for the slow one."""
    planes = [start_plane("slow", delay=NEVER), start_plane(address="127.0.0.12")]
    winner = _race(make_prober, planes, hedge_delay=0.1)
    assert winner is not None
    assert winner.endpoint == endpoint_of(planes[1])


def test_ready_beats_hidden_beats_not_ready(start_plane: StartPlane, make_prober: MakeProber) -> None:
    """Every candidate is asked until one is ready; without one, hidden readiness beats none."""
    planes = [
        start_plane("not_ready"),
        start_plane("forbidden", "127.0.0.12"),
        start_plane("ready", "127.0.0.13"),
    ]
    for expected in (2, 1, 0):
        winner = _race(make_prober, planes, hedge_delay=NEVER)
        assert winner is not None
        assert winner.endpoint == endpoint_of(planes[expected])
        planes[expected].stop()
    assert _race(make_prober, planes, hedge_delay=NEVER) is None


def test_impostors_lose_to_the_only_genuine_one(start_plane: StartPlane, make_prober: MakeProber) -> None:
    """Impostors come first and answer faster; the one genuine control plane wins all the same."""
    impostors = [start_plane(kind, f"127.0.0.{n}") for n, kind in enumerate(IMPOSTORS, 21)]
    genuine = start_plane("slow", delay=0.3)
    winner = _race(make_prober, [*impostors, genuine], hedge_delay=0.05)
    assert winner is not None
    assert winner.endpoint == endpoint_of(genuine)


def test_nobody_wins_among_impostors(start_plane: StartPlane, make_prober: MakeProber) -> None:
    """If only impostors answer, there is no winner."""
    impostors = [start_plane(kind, f"127.0.0.{n}") for n, kind in enumerate(IMPOSTORS, 21)]
    assert _race(make_prober, impostors, hedge_delay=NEVER) is None


def test_silence_everywhere_ends_in_bounded_time(start_plane: StartPlane, make_prober: MakeProber) -> None:
    """With every candidate silent the race ends without a winner, well before the sum of the time limits."""
    planes = [start_plane("blackholed", address=f"127.0.0.{n}") for n in range(11, 31)]
    began = time.monotonic()
    assert _race(make_prober, planes, hedge_delay=0.02, timeout=1.5) is None
    assert time.monotonic() - began < 20 * 1.5 / 2


def test_forwarder_hands_connections_round(authority: Authority, make_prober: MakeProber) -> None:
    """The VIP's stand-in gives each connection to the next control plane, dead ones included."""
    with (
        control_planes(authority, ["127.0.0.11", "127.0.0.12", "127.0.0.13"]) as planes,
        TcpForwarder("127.0.0.20", targets=[(plane.address, plane.port) for plane in planes]) as vip,
    ):
        prober = make_prober()
        assert [prober.probe(endpoint_of(vip)).health for _ in range(6)] == [Health.READY] * 6
        assert _handshakes(planes) == [2, 2, 2]
        planes[1].stop()
        answers = [prober.probe(endpoint_of(vip)).health for _ in range(3)]
        assert sorted(answers) == [Health.BROKEN, Health.READY, Health.READY]
        vip.stop()
        assert prober.probe(endpoint_of(vip)).health is Health.REFUSED
        assert eventually(lambda: vip.connections == 9)
