"""What a run on a node works with: its settings, its hosts file, its name, and what it knows of control planes."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from apiha.clock import Clock, SystemClock
from apiha.config import Config
from apiha.endpoint import Endpoint
from apiha.hosts import HostsFile, current
from apiha.log import Reporter
from apiha.node.choice import addresses_for_block
from apiha.node.learned import load_learned, node_prober
from apiha.paths import MACHINE_ID, STATE_DIR
from apiha.probe import Prober, trial_order

LOOPBACK = "127.0.0.1"  # where a control-plane node's own API server answers


@dataclass
class Node:
    """What a run works with; everything that touches the world is handed in.

    `make_prober` is called anew for each round of a wait, so that a CA or certificate that changes on disk is noticed.
    """

    config: Config
    hosts: HostsFile
    name: str
    report: Reporter
    state_dir: Path = STATE_DIR
    clock: Clock = field(default_factory=SystemClock)
    rng: random.Random = field(default_factory=random.Random)
    make_prober: Callable[[Config], Prober] = Prober.from_config
    make_node_prober: Callable[[Config], AbstractContextManager[Prober]] = node_prober

    def candidates(self) -> tuple[Endpoint, ...]:
        """All control planes this node knows, in its order of trial: those learned from the cluster, then the
        configured ones that the cluster does not name (it may have lost them, or they are its last way back).
        """
        learned, unknown = self._known()
        return learned + unknown

    def vip_first(self, vip: Endpoint, block: tuple[str, ...]) -> tuple[str, ...]:
        """The addresses of a block that says VIP first. After it the groups of `candidates`, each in the order that
        `block` has now, where the pinned one comes first and those found dead come last.
        """
        place = {address: index for index, address in enumerate(block)}

        def rank(endpoint: Endpoint) -> int:
            return place.get(endpoint.address, len(place))

        rest = [endpoint for group in self._known() for endpoint in sorted(group, key=rank)]
        return addresses_for_block(vip.address, rest, fallbacks=self.config.fallbacks)

    def _known(self) -> tuple[tuple[Endpoint, ...], tuple[Endpoint, ...]]:
        """The learned control planes and the configured ones that are not among them, each in the order of trial."""
        # A hosts file carries no port: where API servers listen on another one than clients dial (behind a VIP that
        # translates), their addresses are of no use in it, unless the configuration itself names such a port.
        ports = {self.config.port, *(endpoint.port for endpoint in self.config.control_plane)}
        learned = [endpoint for endpoint in load_learned(self.state_dir) if endpoint.port in ports]
        unknown = [endpoint for endpoint in self.config.control_plane if endpoint not in learned]
        return trial_order(self.name, learned), trial_order(self.name, unknown)

    def block(self) -> tuple[str, ...]:
        """The addresses that the block gives now; none where there is no block."""
        return current(self.hosts.read(), self.config.host).addresses

    def endpoint_of(self, address: str) -> Endpoint:
        """The known endpoint with this address (its port may be its own), else the address with the configured port."""
        known = (endpoint for endpoint in self.candidates() if endpoint.address == address)
        return next(known, Endpoint(address, self.config.port))


def node_name(machine_id: Path = MACHINE_ID) -> str:
    """What this node's order of trial follows from: its host name, or the machine id where it has none yet.

    Before DHCP or cloud-init has named them all nodes of an image are `localhost`, and would choose alike.
    """
    name = os.uname().nodename
    if name.split(".")[0] in ("", "localhost", "(none)"):
        try:
            return machine_id.read_text().strip() or name
        except OSError:
            pass
    return name
