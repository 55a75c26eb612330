"""Wait until the VIP proves itself, then swap; meanwhile keep the node pinned to a control plane that lives.

A node swaps late, because the Service rules that make the VIP answer are written by kube-proxy, which kubelet starts.
"""

from __future__ import annotations

from dataclasses import replace

from apiha.clock import Clock
from apiha.config import require_vip
from apiha.durations import format_duration
from apiha.endpoint import Endpoint
from apiha.errors import ApihaError, ConfigError, VipTimeout
from apiha.hosts import BlockChanged
from apiha.node.block import Block, swapped_block, write_block, write_pin
from apiha.node.choice import PROOF, Race, VipProof, settled, worth_moving
from apiha.node.context import Node
from apiha.node.learn import OtherCluster, learn
from apiha.node.pin import pin
from apiha.node.trial import PROOF_INTERVAL, find_live, survey
from apiha.probe import Health, Prober, ProbeResult, probe_all

VIP_INTERVAL = 1.0  # seconds between two looks at a VIP that does not answer yet
VIP_INTERVAL_MAX = 5.0  # ... once it has been silent for a while; nothing on the cluster waits for us
RECHECK_INTERVAL = 3.0  # seconds between two looks at the pinned control plane; a handshake each, so not less
RECHECK_INTERVAL_MAX = 30.0  # ... once the wait is long: ten thousand workers may wait for the same VIP
DRY_LOOK = 5.0  # seconds that a dry run looks at the VIP: enough for three answers
STILL_WAITING_INTERVAL = 60.0  # seconds between two log lines of a wait in which nothing changes


def wait_vip(node: Node, *, timeout: float | None = None) -> Block:
    """Wait until the VIP proves itself, then swap; meanwhile replace the pinned control plane when it dies.

    `timeout` in seconds, None for no limit. Returns the addresses of the block. Raises VipTimeout, or what was in the
    way all the time: ConfigError for a CA that is not there (on a node that has yet to join) or cannot be used.

    Without a VIP, and with control planes, there is nothing to wait for: such a node stays with its control planes, and
    apiha-vip.service must not fail at each of its boots. With neither: ConfigError.
    """
    if node.config.role == "control-plane":
        node.report.info("role is control-plane: the name stays at 127.0.0.1, there is nothing to wait for")
        return node.block()
    if node.config.vip is None and node.config.control_plane:
        node.report.info("vip is not set: the name stays at a control plane, there is nothing to wait for")
        return node.block()
    return _Wait(node, require_vip(node.config), timeout).run()


class _Wait:
    """One wait for the VIP."""

    def __init__(self, node: Node, vip: Endpoint, timeout: float | None) -> None:
        self.node = node
        self.vip = vip
        self.start = node.clock.monotonic()
        if node.preview is not None:  # which may not wait for what nobody brings about
            timeout = DRY_LOOK if timeout is None else min(timeout, DRY_LOOK)
        self.deadline = None if timeout is None else self.start + timeout
        self.proof = VipProof()
        self.check_at = self.start
        self.seldom = _Seldom(node.clock)

    def run(self) -> Block:
        """Look again and again until the swap, or until the time is up."""
        while True:
            began = self.node.clock.monotonic()
            problem: ApihaError | None = None
            lacking = "another run kept changing the block"
            interval = VIP_INTERVAL_MAX
            try:
                prober = self.node.prober()
            except ConfigError as error:
                problem = error
                if self.seldom.worth_saying("prober", str(error)):
                    self.node.report.warning(f"{error}; trying again")
            else:
                block = self.node.block()
                try:
                    saying = self._look(prober, block, began)
                    if saying is None:
                        return self._swap(prober, block)
                    lacking = saying
                except BlockChanged:
                    self.node.report.info("another run changed the block meanwhile: deciding anew")
                    self.proof = VipProof()
                interval = self._interval(block)
            now = self.node.clock.monotonic()
            if self.deadline is not None and now >= self.deadline:
                raise problem or self._timeout(lacking)
            wake = began + interval * self.node.rng.uniform(0.9, 1.1)
            self.node.clock.sleep((wake if self.deadline is None else min(wake, self.deadline)) - now)

    def _look(self, prober: Prober, block: Block, began: float) -> str | None:
        """Ask the VIP, and now and then the pinned control plane; what the VIP lacks yet, None if it has proved itself.

        Raises BlockChanged.
        """
        node, vip = self.node, self.vip
        pinned = next(iter(block), None)
        swapped = pinned == vip.address
        check = began >= self.check_at and not swapped
        endpoints = [vip] + ([node.endpoint_of(pinned)] if check and pinned is not None else [])
        node.report.status(
            f"waiting for the VIP {vip}, {f'pinned to {pinned}' if pinned else 'not pinned'}",
            began - self.start,
            None if self.deadline is None else self.deadline - began,
        )
        answer, *others = probe_all(prober.probe, endpoints)
        self.proof = self.proof.after(answer)
        if self.proof.proven:
            answer = self._at_home(answer)
            if self.proof.proven:
                return None
        saying = f"{answer.health.value}: {answer.detail}"
        if self.proof.bad and self.seldom.worth_saying("vip", saying):
            node.report.info(
                f"the VIP {vip} does not answer yet ({saying})", elapsed=round(began - self.start, 1)
            )
        if check:
            self.check_at = began + min(RECHECK_INTERVAL_MAX, RECHECK_INTERVAL * (1 + self.proof.bad // 10))
        if swapped and self.proof.lost:
            self._replace(prober, block, self.proof.best_failure)
        elif check and not (others and others[0].health.usable):
            self._replace(prober, block, others[0] if others else None)
        return saying

    def _at_home(self, answer: ProbeResult) -> ProbeResult:
        """The answer if the VIP leads to this node's cluster; else it is a failure."""
        try:
            learn(self.node, self.vip)
        except OtherCluster as error:
            if self.seldom.worth_saying("cluster", str(error)):
                self.node.report.warning(str(error))
            answer = replace(answer, health=Health.UNTRUSTED, detail="it leads to another cluster")
            for _ in range(PROOF):  # asking again would change nothing
                self.proof = self.proof.after(answer)
        return answer

    def _swap(self, prober: Prober, block: Block) -> Block:
        """Point the name at the VIP, the control planes after it. Raises BlockChanged."""
        results = survey(prober.probe, self.node.known())
        wanted = swapped_block(self.node, self.vip, block, results)
        addresses = settled(block, wanted, self.node.remembered().drained)
        message = f"swapped {self.node.config.host} to the VIP {self.vip}"
        write_block(self.node, addresses, message, expected=block)
        return addresses

    def _replace(self, prober: Prober, block: Block, lost: ProbeResult | None) -> None:
        """Pin another control plane if one is better than what comes first in the block, which answered `lost` (None:
        nothing comes first); else leave things alone. Raises BlockChanged.
        """
        node = self.node
        pinned = lost if lost is not None and lost.endpoint != self.vip else None
        if pinned is not None and self.seldom.worth_saying("pinned", f"{pinned.endpoint} {pinned.detail}"):
            node.report.warning(
                f"the pinned control plane {pinned.endpoint} is {pinned.health.value}: {pinned.detail}"
            )
        race = Race(node.candidates(block), node.config.hedge_delay, node.config.probe_timeout)
        winner = find_live(prober.probe, race, node.clock, until=self.deadline)
        if winner is None:
            if self.seldom.worth_saying("others", "none"):
                node.report.warning("no other control plane answers either; the block stays as it is")
        elif worth_moving(None if lost is None else lost.health, winner.health):
            write_pin(node, winner, race.results, expected=block)

    def _interval(self, block: Block) -> float:
        """Seconds between the begin of this look and that of the next."""
        if self.proof.good or (
            block[:1] == (self.vip.address,) and not self.proof.lost
        ):  # about to be decided
            return PROOF_INTERVAL
        return min(VIP_INTERVAL_MAX, VIP_INTERVAL * (1 + self.proof.bad // 30))

    def _timeout(self, saying: str) -> VipTimeout:
        first = next(iter(self.node.block()), None)
        stays = "the name has no address yet" if first is None else f"the name stays at {first}"
        waited = (
            self.node.clock.monotonic() - self.start if self.deadline is None else self.deadline - self.start
        )
        return VipTimeout(
            f"the VIP {self.vip} did not prove itself within {format_duration(waited)} ({saying}); "
            f"{stays}; does kube-proxy run on this node, and does the Service `apiserver` exist?"
        )


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
    """Keeps a wait that may last for hours from filling the log: the same words about a topic once a minute at most.

    Two states that alternate (behind a VIP one refuses, another is not ready) are each said once a minute.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told: dict[tuple[str, str], float] = {}

    def worth_saying(self, topic: str, words: str) -> bool:
        """Whether the words are news, or were last said long enough ago; they count as said then."""
        now = self._clock.monotonic()
        self._told = {key: at for key, at in self._told.items() if now < at + STILL_WAITING_INTERVAL}
        if (topic, words) in self._told:
            return False
        self._told[topic, words] = now
        return True
