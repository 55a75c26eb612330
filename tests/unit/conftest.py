"""Fixtures of the unit tests: a node in a scripted world."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import cast

import pytest

from apiha.config import Config
from apiha.errors import ConfigError
from apiha.hosts import HostsFile
from apiha.log import Reporter
from apiha.node.context import Node
from apiha.probe import Prober
from tests.support.world import PLANES, VIP, World


@pytest.fixture
def world() -> World:
    """Everything refuses until told otherwise."""
    return World()


@pytest.fixture
def log() -> io.StringIO:
    """What was said, as JSON lines."""
    return io.StringIO()


@pytest.fixture
def node(world: World, tmp_path: Path, log: io.StringIO) -> Node:
    """A worker in that world, with a VIP and three control planes configured."""

    @contextmanager
    def nobody(_: Config) -> Iterator[Prober]:
        raise ConfigError("no client certificate")
        yield

    (tmp_path / "hosts").write_bytes(b"127.0.0.1 localhost\n")
    return Node(
        config=Config(control_plane=PLANES, vip=VIP.address, hedge_delay=0.01, probe_timeout=0.5),
        hosts=HostsFile(tmp_path / "hosts", state_dir=tmp_path / "state"),
        name="worker-1",
        report=Reporter(log, log_format="json", verbose=True, clock=world.clock),
        state_dir=tmp_path / "state",
        clock=world.clock,
        rng=random.Random(1),
        make_prober=lambda _: cast(Prober, world),
        make_timeless_prober=lambda _: cast(Prober, world.timeless()),
        make_node_prober=cast(Callable[[Config], AbstractContextManager[Prober]], nobody),
    )
