"""Threads that never stop unnoticed.

Reads: the stop event. Writes: nothing; a thread's bug is handed to `on_bug`.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from apiha.clock import backoff


class Supervisor:
    """Starts threads, and restarts a body that raises, with a growing delay. Thread-safe."""

    def __init__(
        self, stop: threading.Event, rng: random.Random, on_bug: Callable[[str, Exception], None]
    ) -> None:
        """`stop` ends everything; `on_bug` hears the thread's name and what its body raised."""
        self._stop = stop
        self._rng = rng
        self._on_bug = on_bug
        self._lock = threading.Lock()
        self._threads: list[tuple[threading.Thread, threading.Event]] = []

    def start(
        self, name: str, body: Callable[[], None], stop: threading.Event | None = None
    ) -> threading.Thread:
        """Run `body` in a thread of its own, until it returns or is told to end.

        It is told so by a `stop` of its own, which the body looks at as well, else by the supervisor's.
        """
        told = stop or self._stop

        def guarded() -> None:
            attempt = 0
            while not told.is_set():
                try:
                    body()
                    return
                except Exception as error:
                    self._on_bug(name, error)
                    told.wait(backoff(attempt, self._rng))
                    attempt += 1

        thread = threading.Thread(target=guarded, name=name, daemon=True)
        with self._lock:
            self._threads = [(one, its) for one, its in self._threads if one.is_alive() or not its.is_set()]
            self._threads.append((thread, told))
            thread.start()
        return thread

    def join(self, seconds: float) -> None:
        """Wait until every thread has ended, or this time is over: they have been told to.

        A thread that the interpreter's end finds inside of a library (OpenSSL, say) may hold what that end waits for.
        """
        until = time.monotonic() + seconds
        with self._lock:
            threads = [thread for thread, _ in self._threads]
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))

    def ended(self) -> list[str]:
        """The names of the threads that have ended without being told to."""
        with self._lock:
            return [
                thread.name for thread, told in self._threads if not thread.is_alive() and not told.is_set()
            ]
