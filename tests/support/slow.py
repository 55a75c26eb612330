"""A path with a long round trip between two hosts of `tests.support.netns`, where the kernel has no netem."""

from __future__ import annotations

import fcntl
import os
import queue
import struct
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from tests.support.netns import Host

if TYPE_CHECKING:
    from typing_extensions import Self

_TUN = Path("/dev/net/tun")
_TUNSETIFF = 0x400454CA  # linux/if_tun.h
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000


def missing() -> str | None:
    """Why there can be no such path here, or None."""
    return None if _TUN.exists() else "needs /dev/net/tun: load the kernel module tun"


class SlowPath:
    """A tun device in each of two hosts; what goes into the one comes out of the other `delay` seconds later."""

    def __init__(self, one: Host, one_address: str, two: Host, two_address: str, delay: float) -> None:
        self._delay = delay
        self._ends = [self._open(host, address) for host, address in ((one, one_address), (two, two_address))]
        for source, target in (self._ends, self._ends[::-1]):
            waiting: queue.SimpleQueue[tuple[float, bytes] | None] = queue.SimpleQueue()
            threading.Thread(target=self._read, args=(source, waiting), daemon=True).start()
            threading.Thread(target=self._write, args=(target, waiting), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for end in self._ends:
            os.close(end)

    @staticmethod
    def _open(host: Host, address: str) -> int:
        def create() -> int:
            descriptor = os.open(_TUN, os.O_RDWR)
            fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH", b"slow0", _IFF_TUN | _IFF_NO_PI))
            return descriptor

        descriptor = host.call(create)
        for command in (["address", "add", f"{address}/24", "dev", "slow0"], ["link", "set", "slow0", "up"]):
            host.run(["ip", *command], check=True)
        return descriptor

    def _read(self, source: int, waiting: queue.SimpleQueue[tuple[float, bytes] | None]) -> None:
        try:
            while True:
                packet = os.read(source, 1 << 16)
                waiting.put((time.monotonic() + self._delay, packet))
        except OSError:
            waiting.put(None)

    @staticmethod
    def _write(target: int, waiting: queue.SimpleQueue[tuple[float, bytes] | None]) -> None:
        try:
            while (entry := waiting.get()) is not None:
                time.sleep(max(0.0, entry[0] - time.monotonic()))
                os.write(target, entry[1])
        except OSError:
            pass
