"""An hour of a node's ordinary traffic over a lossy network: sixty nodes for a minute, each with its own breaker."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from apiha.endpoint import Endpoint
from apiha.failfast.table import Table
from tests.support.failfast import Lab, lose
from tests.support.netns import Network, requires_root

pytestmark = requires_root

NODES = 60
MINUTE = 60.0  # seconds
LOSS = 2  # percent of all packets, in each direction
# As many as a block has on a worker with three control planes. A SYN or its answer is lost once in 25 times, and the
# loss has no seed: with two addresses one run in five would see a client lose both, with four one in ten thousand.
ADDRESSES = 4


Client = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Ordinary:
    """What a kubelet, a kube-proxy and now and then somebody else say to one control plane, at their real pace."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.noticed: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, host: str, ports: list[int]) -> None:
        """Answer requests, and push events to those who watch, until cancelled."""
        servers = [await asyncio.start_server(self._answer, host, port) for port in ports]
        try:
            await asyncio.gather(*(server.serve_forever() for server in servers))
        finally:
            for server in servers:
                server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                kind = await reader.readexactly(300)
                if kind.startswith(b"watch"):
                    while True:
                        await asyncio.sleep(self.rng.expovariate(1 / 8))
                        writer.write(b"e" * self.rng.randint(200, 4000))
                        await writer.drain()
                await asyncio.sleep(self.rng.expovariate(1 / 0.02))
                writer.write(b"a" * 300)
        writer.close()

    async def node(self, host: str, *ports: int) -> None:
        """One node's clients, and the addresses that they try in this order."""
        await asyncio.gather(
            self._again(self._lease, host, ports),
            self._again(self._watch, host, ports),  # kubelet's
            self._again(self._watch, host, ports),  # kube-proxy's
            self._again(self._fresh, host, ports),
        )

    async def _again(self, client: Client, host: str, ports: tuple[int, ...]) -> None:
        while True:
            try:
                await client(*await self._dial(host, ports))
            except (OSError, asyncio.IncompleteReadError) as error:
                self.noticed[f"{client.__name__}: {type(error).__name__}"] += 1

    async def _dial(
        self, host: str, ports: tuple[int, ...]
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection; refused, the next address at once, as Go's dialer does."""
        self.done["dialed"] += 1
        for port in ports[:-1]:
            try:
                return await asyncio.open_connection(host, port)
            except ConnectionRefusedError:
                self.done["took the next address"] += 1
        return await asyncio.open_connection(host, ports[-1])

    async def _lease(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Renew a lease every 10 s, and write the status of a Pod in between."""
        try:
            await asyncio.sleep(self.rng.uniform(0, 5))
            while True:
                writer.write(b"PUT lease".ljust(300))
                await reader.readexactly(300)
                self.done["lease"] += 1
                await asyncio.sleep(5)
        finally:
            writer.close()

    async def _watch(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Wait for events; say nothing."""
        try:
            writer.write(b"watch".ljust(300))
            while await reader.read(1 << 16):
                self.done["event"] += 1
            raise ConnectionAbortedError
        finally:
            writer.close()

    async def _fresh(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A client that comes about every 30 s, and goes."""
        try:
            writer.write(b"GET version".ljust(300))
            await reader.readexactly(300)
            self.done["fresh"] += 1
        finally:
            writer.close()
        await asyncio.sleep(self.rng.expovariate(1 / 30))


@dataclass(frozen=True)
class Hour:
    """What came of one."""

    told: str
    leases: int
    noticed: Counter[str]
    table: Table

    @property
    def unnoticed(self) -> bool:
        """No connection was reset, and no client failed."""
        return not self.noticed and not sum(breaker.cut for breaker in self.table.breakers)


def an_hour() -> Hour:
    """Sixty nodes for a minute."""
    seed = random.SystemRandom().randrange(1 << 32)
    ports = list(range(20000, 20000 + NODES))
    with Network() as network, contextlib.closing(Lab(network)) as lab:
        plane = lab.hosts[0]
        ordinary = Ordinary(random.Random(seed))

        def run_server() -> None:
            with contextlib.suppress(asyncio.CancelledError):
                asyncio.run(ordinary.serve(plane.address, ports))

        async def run_nodes() -> None:
            nodes = asyncio.gather(
                *(
                    ordinary.node(plane.address, *(ports[index - other] for other in range(ADDRESSES)))
                    for index in range(NODES)
                )
            )
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(nodes, MINUTE)

        plane.thread(run_server)
        lab.load([Endpoint(plane.address, port) for port in ports])
        threading.Event().wait(1)
        for hook in ("in", "out"):
            lose(plane, hook, f"numgen random mod 100 < {LOSS}", table=f"loss_{hook}")
        lab.worker.call(asyncio.run, run_nodes())
        table = lab.table()
        told = (
            f"seed {seed}: {dict(ordinary.done)}, noticed {dict(ordinary.noticed)}, "
            f"refused {sum(b.refused for b in table.breakers)}, cut {sum(b.cut for b in table.breakers)}, "
            f"silences {sum(b.silences for b in table.breakers)}"
        )
        print(told)
        return Hour(told, ordinary.done["lease"], ordinary.noticed, table)


def test_in_an_hour_with_two_percent_loss_no_client_notices_anything() -> None:
    """No connection is reset, no client fails; a few that lost a SYN in a quiet second took their next address."""
    hours = [an_hour()]
    # Four packets in a row are lost once in 400,000 requests (docs/fail-fast.md), and an hour has a thousand: in one of
    # some 300 a connection is reset, and rightly. In two after another it is not chance.
    if not hours[0].unnoticed:
        hours.append(an_hour())
    assert hours[-1].unnoticed, [hour.told for hour in hours]
    assert all(hour.leases > NODES * 8 for hour in hours), [hour.told for hour in hours]
