"""Another program that writes the same hosts file: it replaces it by a rename, or appends a line in place.

It knows every byte outside the block, so that the loss of one shows. It is as careful as such programs are: it changes
its own lines only, and writes back what else it read, which may be an older block.
"""

from __future__ import annotations

import threading
from pathlib import Path

from apiha.hosts import current, remove

HOST = "apiserver.cluster.local"


class Neighbour:
    """Writes one hosts file and judges what it finds in it."""

    def __init__(self, hosts: Path) -> None:
        self._hosts = hosts
        self._lock = threading.Lock()
        self._own = hosts.read_bytes()  # every byte outside the block
        self._allowed = {self._own}  # two values while a write is under way
        self._lines = 0
        self.writes = 0
        self.looks = 0

    def write(self) -> None:
        """Replace the file by one with another line at its end or, every fourth time, without the last such line."""
        with self._lock:
            self._lines += 1
            line = self._line(self._lines)
            gone = self._line(self._lines - 1) if self._lines % 4 == 0 else b""
            after = self._own.replace(gone, b"") if gone else self._own + line
            self._allowed = {self._own, after}
            data = self._hosts.read_bytes()
            temporary = self._hosts.with_name("hosts.neighbour")
            temporary.write_bytes(data.replace(gone, b"") if gone else data + line)
            temporary.rename(self._hosts)
            self._settle(after)

    def append(self) -> None:
        """Append a line as `echo ... >> /etc/hosts` does; once more if it went into a file just replaced."""
        with self._lock:
            self._lines += 1
            line = self._line(self._lines)
            after = self._own + line
            self._allowed = {self._own, after}
            while line not in self._hosts.read_bytes():
                with self._hosts.open("ab", buffering=0) as file:
                    file.write(line)
            self._settle(after)

    def look(self) -> str | None:
        """What is wrong with the file now, in one line; None if nothing is."""
        allowed, begun = self._allowed, self._lines
        try:
            data = self._hosts.read_bytes()
        except FileNotFoundError:
            return "the hosts file is gone"
        self.looks += 1
        outside = remove(data).data
        # Overtaken by two writes, as when this machine stops for a moment: what lay between is not known here any more.
        if outside not in allowed | self._allowed and self._lines - begun < 2:
            return (
                f"bytes outside the block changed: expected {min(allowed)[-200:]!r}, found {outside[-200:]!r}"
            )
        state = current(data, HOST)
        return f"the block is damaged: {state.damage[0]}" if state.damage else None

    def _settle(self, after: bytes) -> None:
        self._own = after
        self._allowed = {after}
        self.writes += 1

    @staticmethod
    def _line(number: int) -> bytes:
        return f"192.0.2.{number % 250}\tneighbour-{number}.example\n".encode()
