"""What one boot, one reconcile asks: apiha's real `bootstrap` and `reconcile`, run in a scripted world.

Two workers that observe the same do the same, so each observation is run once and remembered. Control planes are
numbered by their place in the worker's own order of trial, on which nothing else depends.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import json
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from apiha.config import Config
from apiha.endpoint import Endpoint
from apiha.hosts import HostsFile
from apiha.log import Reporter
from apiha.node.context import Node
from apiha.node.learned import NAMESPACE_PATH, SERVICE_PATH, SLICE_PATH
from apiha.node.reconcile import reconcile
from apiha.node.wait import bootstrap
from apiha.probe import Health, Prober, trial_order
from tests.support.world import VIP, World

NAME = "worker-1"


@dataclass(frozen=True)
class Asked:
    """What a run asked, a connection of its own each, and what it left behind.

    `vip` are connections through the VIP (learning included), `direct` those to each control plane itself, in the
    node's order. `first` is what the block names first: -1 for the VIP, else the number of a control plane.
    """

    vip: int
    direct: tuple[int, ...]
    first: int
    written: bool

    @property
    def total(self) -> int:
        """All connections."""
        return self.vip + sum(self.direct)


@functools.cache
def a_pass(count: int, vip: tuple[bool, ...], dead: frozenset[int] = frozenset()) -> Asked:
    """One `reconcile` of a swapped node with `count` control planes, of which `dead` refuse.

    `vip` is whether the VIP answers, for each time that it is asked; the last one holds from then on.
    """
    with _node(count) as (node, world, order):
        for number, endpoint in enumerate(order):
            world.says(endpoint, Health.REFUSED if number in dead else Health.READY)
        world.says(VIP, *(Health.READY if answers else Health.REFUSED for answers in vip))
        addresses = (VIP.address, *(endpoint.address for endpoint in order))
        node.hosts.pin(node.config.host, addresses, node.config.on_conflict, expected=None)
        before = node.block()
        reconcile(node)
        return _asked(node, world, order, before)


@functools.cache
def a_boot(count: int, vip_after: float) -> Asked:
    """One `bootstrap` (pin, wait, swap) of a node with `count` control planes; the VIP answers after so many seconds.

    Looks at the VIP before that reach no control plane, and are left out.
    """
    with _node(count) as (node, world, order):
        for endpoint in order:
            world.says(endpoint, Health.READY)
        world.from_then_on(VIP, vip_after, Health.TIMEOUT, Health.READY)
        bootstrap(node)
        world.asked = [(when, who) for when, who in world.asked if who != VIP or when >= vip_after]
        return _asked(node, world, order, ())


def _asked(node: Node, world: World, order: tuple[Endpoint, ...], before: tuple[str, ...]) -> Asked:
    counts = [len(world.times(endpoint)) for endpoint in (VIP, *order)]
    first = node.block()[0]
    places = {endpoint.address: number for number, endpoint in enumerate(order)} | {VIP.address: -1}
    return Asked(counts[0], tuple(counts[1:]), places[first], node.block() != before)


@contextlib.contextmanager
def _node(count: int) -> Iterator[tuple[Node, World, tuple[Endpoint, ...]]]:
    planes = tuple(Endpoint(f"10.0.0.{11 + number}", 6443) for number in range(count))
    world = World()

    class Learning:
        """A prober with the node's identity: every control plane and the VIP name the same cluster."""

        @contextlib.contextmanager
        def request(self, endpoint: Endpoint, path: str) -> Iterator[_Answer]:
            world.asked.append((world.elapsed, endpoint))
            answers = {
                SLICE_PATH: _slice(planes),
                NAMESPACE_PATH: _NAMESPACE,
                SERVICE_PATH.format(vip=VIP.address): b'{"items": [{}]}',
            }
            yield _Answer(answers[path])

    with tempfile.TemporaryDirectory(prefix="apiha-fleet-") as folder:
        path = Path(folder)
        (path / "hosts").write_bytes(b"127.0.0.1 localhost\n")
        config = Config(control_plane=planes, vip=VIP.address, insecure_skip_tls_verify=True)
        learning = cast(
            Callable[[Config], AbstractContextManager[Prober]], lambda _: contextlib.nullcontext(Learning())
        )
        node = Node(
            config=config,
            hosts=HostsFile(path / "hosts", state_dir=path / "state"),
            name=NAME,
            report=Reporter(io.StringIO(), log_format="json", clock=world.clock),
            state_dir=path / "state",
            clock=world.clock,
            rng=random.Random(1),
            make_prober=lambda _: cast(Prober, world),
            make_node_prober=learning,
        )
        yield node, world, trial_order(NAME, planes)


@dataclass(frozen=True)
class _Answer:
    """As much of an httpx.Response as learning reads."""

    text: bytes
    status_code: int = 200

    def iter_raw(self) -> Iterator[bytes]:
        """The body."""
        return itertools.repeat(self.text, 1)


_NAMESPACE = json.dumps({"metadata": {"uid": "0"}}).encode()


def _slice(planes: tuple[Endpoint, ...]) -> bytes:
    entries = [{"addresses": [plane.address], "conditions": {"ready": True}} for plane in planes]
    return json.dumps({"endpoints": entries, "ports": [{"name": "https", "port": 6443}]}).encode()
