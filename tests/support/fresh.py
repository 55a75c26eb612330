"""Clients that connect anew again and again: python -m tests.support.fresh CA HOST CLIENTS EVERY ADDRESS...

CLIENTS of them, each every EVERY seconds. Each connects to the first address that takes the connection, as a Go client
does with a hosts file, asks `/readyz`, and goes away. It runs until stdin ends, and prints [[start, seconds, what went
wrong or null], ...] as JSON; `start` is in seconds since the epoch.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import sys
import time
from collections.abc import Sequence
from pathlib import Path

PORT = 6443
PATIENCE = 20.0  # s: no client waits for longer

Tried = tuple[float, float, str | None]


async def connect(addresses: Sequence[str], context: ssl.SSLContext, host: str) -> None:
    """One new connection and one answer; raises OSError for what went wrong."""
    problem: OSError | None = None
    for address in addresses:
        try:
            reader, writer = await asyncio.open_connection(address, PORT, ssl=context, server_hostname=host)
        except ssl.SSLError:
            raise
        except OSError as error:
            problem = error
            continue
        try:
            writer.write(f"GET /readyz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            status = await reader.readline()
            if b" 200 " not in status:
                raise ConnectionError(f"{address}: answered {status!r}")
            return
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    raise problem or ConnectionError("no address")


async def tried(addresses: Sequence[str], context: ssl.SSLContext, host: str) -> Tried:
    """How one connection went."""
    began, start = time.time(), time.monotonic()
    problem: str | None = None
    try:
        await asyncio.wait_for(connect(addresses, context, host), PATIENCE)
    except (OSError, asyncio.TimeoutError) as error:
        problem = f"{type(error).__name__}: {error}"
    return began, time.monotonic() - start, problem


async def client(
    addresses: Sequence[str],
    context: ssl.SSLContext,
    host: str,
    every: float,
    stop: asyncio.Event,
    found: list[Tried],
) -> None:
    """A new connection every `every` seconds, whatever became of the last, until `stop`."""
    under_way: set[asyncio.Task[None]] = set()

    async def one() -> None:
        found.append(await tried(addresses, context, host))

    while not stop.is_set():
        task = asyncio.create_task(one())
        under_way.add(task)
        task.add_done_callback(under_way.discard)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stop.wait(), every)
    await asyncio.gather(*under_way)


async def main(ca: Path, host: str, count: int, every: float, addresses: Sequence[str]) -> list[Tried]:
    """`count` clients, spread over `every` seconds, until stdin ends."""
    context = ssl.create_default_context(cafile=str(ca))
    stop, found = asyncio.Event(), list[Tried]()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin.fileno(), stop.set)
    clients = []
    for _ in range(count):
        clients.append(asyncio.create_task(client(addresses, context, host, every, stop, found)))
        await asyncio.sleep(every / count)
    await asyncio.gather(*clients)
    return found


if __name__ == "__main__":
    ca, host, count, every, *rest = sys.argv[1:]
    json.dump(asyncio.run(main(Path(ca), host, int(count), float(every), rest)), sys.stdout)
