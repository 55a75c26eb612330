"""Threads that never stop unnoticed.

Reads: the stop event. Writes: nothing; a thread's bug is handed to `on_bug`.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

from apiha.clock import backoff


class Supervisor:
    """Starts threads, and starts a body anew, later and later, when it ends in an exception. Thread-safe."""

    def __init__(
        self, stop: threading.Event, rng: random.Random, on_bug: Callable[[str, Exception], None]
    ) -> None:
        """`stop` ends everything; `on_bug` hears the thread's name and what its body raised."""
        self._stop = stop
        self._rng = rng
        self._on_bug = on_bug
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def start(self, name: str, body: Callable[[], None]) -> threading.Thread:
        """Run `body` in a thread of its own, until it returns or `stop` is set."""

        def guarded() -> None:
            attempt = 0
            while not self._stop.is_set():
                try:
                    body()
                    return
                except Exception as error:
                    self._on_bug(name, error)
                    self._stop.wait(backoff(attempt, self._rng))
                    attempt += 1

        thread = threading.Thread(target=guarded, name=name, daemon=True)
        with self._lock:
            self._threads.append(thread)
        thread.start()
        return thread

    def ended(self) -> list[str]:
        """The names of the threads that have ended."""
        with self._lock:
            return [thread.name for thread in self._threads if not thread.is_alive()]
