"""What a run on a node works with: its settings, its hosts file, its name, and what it knows of control planes."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

from apiha.clock import Clock, SystemClock
from apiha.config import Config
from apiha.endpoint import Endpoint
from apiha.errors import ConfigError
from apiha.hosts import HostsFile, current
from apiha.log import Reporter
from apiha.node import memory
from apiha.node.choice import interleave, put_last
from apiha.node.learned import node_prober
from apiha.paths import MACHINE_ID, STATE_DIR
from apiha.preview import Preview
from apiha.probe import Prober, ProbeResult, trial_order

LOOPBACK = "127.0.0.1"  # where a control-plane node's own API server answers
# machine-id(5); "uninitialized" stands there on the first boot of an image.
_MACHINE_ID = re.compile(rb"[0-9a-f]{32}")


@dataclass
class Node:
    """What a run works with; everything that touches the world is handed in.

    `make_prober` is called anew for each round of a wait, so that a CA or certificate that changes on disk is noticed.
    `make_timeless_prober` makes one that does not mind certificates that are not valid by this machine's clock.
    """

    config: Config
    hosts: HostsFile
    name: str
    report: Reporter
    state_dir: Path = STATE_DIR
    preview: Preview | None = None  # `hosts` has the same
    clock: Clock = field(default_factory=SystemClock)
    rng: random.Random = field(default_factory=random.Random)
    make_prober: Callable[[Config], Prober] = Prober.from_config
    make_timeless_prober: Callable[[Config], Prober] = Prober.timeless
    make_node_prober: Callable[[Config], AbstractContextManager[Prober]] = node_prober
    observe: Callable[[ProbeResult], None] | None = None  # told of what `prober` finds
    _unsaved: memory.Memory | None = None
    _warned: set[str] = field(default_factory=set)

    def block(self) -> tuple[str, ...]:
        """The addresses that the block gives now; none where there is no block."""
        return current(self.hosts.read(), self.config.host).addresses

    def known(self) -> tuple[Endpoint, ...]:
        """The control planes of the cluster as far as this node knows, in its order of trial: those that it learned
        and those of the configuration, in turns, the drained ones last. These belong in the block.
        """
        remembered = self.remembered()
        return put_last(interleave(*self._sources(remembered)), remembered.drained)

    def candidates(self, block: tuple[str, ...]) -> tuple[Endpoint, ...]:
        """Everything worth asking, in this node's order of trial: as `known`, and in turns with these what else the
        block names, which may be all that is left of a list that was lost.
        """
        remembered = self.remembered()
        learned, configured = self._sources(remembered)
        taken = {LOOPBACK, self.config.vip, *(endpoint.address for endpoint in learned + configured)}
        others = [Endpoint(address, self.config.port) for address in block if address not in taken]
        order = interleave(learned, configured, trial_order(self.name, others[: memory.MOST]))
        return put_last(order, remembered.drained)

    def _sources(self, remembered: memory.Memory) -> tuple[tuple[Endpoint, ...], tuple[Endpoint, ...]]:
        """The learned control planes and the configured ones, each in this node's order of trial."""
        # A hosts file carries no port: where API servers listen on another one than clients dial (behind a VIP that
        # translates), their addresses are of no use in it, unless the configuration itself names such a port.
        ports = {self.config.port, *(endpoint.port for endpoint in self.config.control_plane)}
        learned = [endpoint for endpoint in remembered.endpoints if endpoint.port in ports]
        return trial_order(self.name, learned), trial_order(self.name, self.config.control_plane)

    def endpoint_of(self, address: str) -> Endpoint:
        """The known endpoint with this address (its port may be its own), else the address with the configured port."""
        known = (endpoint for endpoint in self.known() if endpoint.address == address)
        return next(known, Endpoint(address, self.config.port))

    def remembered(self) -> memory.Memory:
        """What this node remembers of its cluster; a damaged file is warned about."""
        if self._unsaved is not None:
            return self._unsaved
        found = memory.load(self.state_dir)
        if found.damage is not None:
            self.warn_once(f"{found.damage}; going on with the control planes of the configuration")
        return found

    def remember(self, new: memory.Memory) -> None:
        """Keep it for the next run, and for the rest of this one even where the disk takes nothing. Raises OSError."""
        self._unsaved = new
        memory.save(self.state_dir, new, self.preview)
        self._unsaved = None if self.preview is None else new

    def prober(self, *, timeless: bool = False, at_most: float | None = None) -> Prober:
        """A prober as the configuration describes it, without the client certificate if that cannot be used.

        The certificate shows readiness and nothing else: no reason not to boot. `timeless` as for
        `make_timeless_prober`; whoever is asked then has not proved itself, so it is not shown who this node is. Such a
        probe takes `at_most` so many seconds. Raises ConfigError.
        """
        without = replace(self.config, client_cert=None, client_key=None)
        if timeless:
            longest = (
                self.config.probe_timeout if at_most is None else min(self.config.probe_timeout, at_most)
            )
            return self.make_timeless_prober(replace(without, probe_timeout=longest))
        try:
            prober = self.make_prober(self.config)
        except ConfigError as error:
            if self.config.client_cert is None:
                raise
            prober = self.make_prober(without)
            self.warn_once(f"{error}; going on without a client certificate")
        for doubt in getattr(prober, "doubts", ()):
            self.warn_once(doubt)
        if self.observe is not None:
            prober.observe = self.observe
        return prober

    def warn_once(self, message: str) -> None:
        """Warn, but not of the same thing again."""
        if message not in self._warned:
            self._warned.add(message)
            self.report.warning(message)


def node_name(report: Reporter, *, machine_id: Path = MACHINE_ID) -> str:
    """What this node's order of trial follows from: its host name, or the machine id where it has none yet.

    Before DHCP or cloud-init has named them all nodes of an image are `localhost`, and would choose alike.
    """
    name = os.uname().nodename  # bytes that are not UTF-8 become surrogates (PEP 383)
    if name.split(".")[0] not in ("", "localhost", "(none)"):
        if not name.isprintable():
            report.warning(f"the host name {name!a} is not UTF-8 text; used as it is")
        return name
    try:
        with open(machine_id, "rb") as file:
            found = file.read(64).strip()
    except OSError:
        return name
    if _MACHINE_ID.fullmatch(found):
        return found.decode("ascii")
    report.warning(
        f"{machine_id} holds no machine id ({found.decode('utf-8', 'backslashreplace')!a}), and this machine has no "
        "host name: it tries the control planes in the same order as every other machine without a name"
    )
    return name
