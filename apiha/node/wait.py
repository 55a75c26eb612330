"""Wait until the VIP proves itself, then swap; meanwhile keep the node pinned to a control plane that lives.

A node swaps late, because the Service rules that make the VIP answer are written by kube-proxy, which kubelet starts.
"""

from __future__ import annotations

from apiha.clock import Clock
from apiha.config import require_vip
from apiha.durations import format_duration
from apiha.errors import VipTimeout
from apiha.node.choice import Race, VipProof
from apiha.node.context import Node
from apiha.node.pin import pin, write_block, write_pin
from apiha.node.reconcile import learn
from apiha.node.trial import PROOF_INTERVAL, find_live
from apiha.probe import Prober, ProbeResult, probe_all

VIP_INTERVAL = 1.0  # seconds between two looks at a VIP that does not answer yet
VIP_INTERVAL_MAX = 5.0  # ... once it has been silent for a while; nothing on the cluster waits for us
RECHECK_INTERVAL = 3.0  # seconds between two looks at the pinned control plane; a handshake each, so not less
RECHECK_INTERVAL_MAX = 30.0  # ... once the wait is long: ten thousand workers may wait for the same VIP
STILL_WAITING_INTERVAL = 60.0  # seconds between two log lines of a wait in which nothing changes


def swap(node: Node) -> tuple[str, ...]:
    """Point the name at the VIP, the control planes after it; returns the addresses of the block."""
    vip = require_vip(node.config)
    addresses = node.vip_first(vip, node.block())
    write_block(node, addresses, f"swapped {node.config.host} to the VIP {vip}")
    return addresses


def wait_vip(node: Node, *, timeout: float | None = None) -> tuple[str, ...]:
    """Wait until the VIP proves itself, then swap; meanwhile replace the pinned control plane when it dies.

    `timeout` in seconds, None for no limit. Returns the addresses of the block. Raises VipTimeout.
    """
    if node.config.role == "control-plane":
        node.report.info("role is control-plane: the name stays at 127.0.0.1, there is nothing to wait for")
        return node.block()
    vip = require_vip(node.config)
    start = node.clock.monotonic()
    deadline = None if timeout is None else start + timeout
    seldom, proof, check_at = _Seldom(node.clock), VipProof(), start
    while True:
        began = node.clock.monotonic()
        pinned = next(iter(node.block()), None)
        swapped = pinned == vip.address
        check = began >= check_at and not swapped
        prober = node.make_prober(node.config)
        endpoints = [vip] + ([node.endpoint_of(pinned)] if check and pinned is not None else [])
        node.report.status(
            f"waiting for the VIP {vip}, {f'pinned to {pinned}' if pinned else 'not pinned'}",
            began - start,
            None if deadline is None else deadline - began,
        )
        answers = probe_all(prober.probe, endpoints)
        proof = proof.after(answers[0])
        if proof.proven:
            addresses = swap(node)
            learn(node, vip)
            return addresses
        saying = f"{answers[0].health.value}: {answers[0].detail}"
        if proof.bad and seldom.worth_saying("vip", saying):
            node.report.info(f"the VIP {vip} does not answer yet ({saying})", elapsed=round(began - start, 1))
        if check:
            check_at = began + min(RECHECK_INTERVAL_MAX, RECHECK_INTERVAL * (1 + proof.bad // 10))
        if (check and not (answers[1:] and answers[1].health.usable)) or (swapped and proof.lost):
            lost = answers[1] if answers[1:] else None
            _replace_pinned(node, prober, lost, seldom, until=deadline)
        if deadline is not None and node.clock.monotonic() >= deadline:
            raise VipTimeout(
                f"the VIP {vip} did not prove itself within {format_duration(deadline - start)} ({saying}); "
                "the name stays pinned; does kube-proxy run on this node, and does the Service `apiserver` exist?"
            )
        if proof.good or (swapped and not proof.lost):  # about to be decided
            interval = PROOF_INTERVAL
        else:
            interval = min(VIP_INTERVAL_MAX, VIP_INTERVAL * (1 + proof.bad // 30))
        wake = began + interval * node.rng.uniform(0.9, 1.1)
        node.clock.sleep((wake if deadline is None else min(wake, deadline)) - node.clock.monotonic())


def _replace_pinned(
    node: Node, prober: Prober, lost: ProbeResult | None, seldom: _Seldom, *, until: float | None
) -> None:
    """Pin another control plane if one is better than the one that stopped being usable; else leave things alone."""
    if lost is not None and seldom.worth_saying("pinned", f"{lost.endpoint} {lost.detail}"):
        node.report.warning(f"the pinned control plane {lost.endpoint} is {lost.health.value}: {lost.detail}")
    order = node.candidates()
    race = Race(order, node.config.hedge_delay, node.config.probe_timeout)
    winner = find_live(prober.probe, race, node.clock, until=until)
    if winner is None:
        if seldom.worth_saying("others", "none"):
            node.report.warning("no other control plane answers either; the block stays as it is")
    elif lost is None or winner.endpoint != lost.endpoint:
        write_pin(node, winner, race)


def bootstrap(node: Node, *, pin_only: bool = False, timeout: float | None = None) -> tuple[str, ...]:
    """Pin, then wait for the VIP and swap, all within `timeout` seconds; for manual runs and cloud-init."""
    if not pin_only and node.config.role == "worker":
        require_vip(node.config)  # say so before anything is written
    start = node.clock.monotonic()
    addresses = pin(node, wait=timeout or 0.0)
    if pin_only or node.config.role == "control-plane":
        return addresses
    left = None if timeout is None else max(0.0, timeout - (node.clock.monotonic() - start))
    return wait_vip(node, timeout=left)


class _Seldom:
    """Keeps a wait that may last for hours from filling the log: the same words about a topic once a minute at most."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told: dict[str, tuple[str, float]] = {}

    def worth_saying(self, topic: str, words: str) -> bool:
        """Whether the words are news, or were last said long enough ago; they count as said then."""
        now = self._clock.monotonic()
        told, at = self._told.get(topic, ("", now))
        if words == told and now < at + STILL_WAITING_INTERVAL:
            return False
        self._told[topic] = (words, now)
        return True
