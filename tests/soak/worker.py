"""A worker for the soak: the three units of apiha and a kubelet, acted by threads; its processes are the real ones."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.support.control_plane import TcpForwarder

START_LIMIT = (
    30.0  # s: TimeoutStartSec= of apiha-bootstrap.service, after which kubelet starts whatever came of it
)
RESTART = 1.0  # s: RestartSec= of apiha-vip.service, shortened
TIMER = 3.0  # s: apiha-reconcile.timer, shortened from five minutes
SETTLE = 0.3  # s: ExecStartPre=/bin/sleep 1 of apiha-reconcile.service, shortened
PROXY_STARTS = (0.3, 2.0)  # s from kubelet's start to the first rules of the Service proxy


class Worker:
    """One machine: `boot` it, `power_cut` it, `kill` one of its processes. Thread-safe."""

    def __init__(self, folder: Path, settings: Mapping[str, object], vip: TcpForwarder, seed: int) -> None:
        folder.mkdir()
        self.name = folder.name
        self.hosts = folder / "hosts"
        self.hosts.write_bytes(b"127.0.0.1\tlocalhost\n# caf\xe9\r\n::1 ip6-localhost\n")
        self.vip = vip
        self.boots = 0
        self.kills = 0
        self.held: list[float] = []  # how long each boot held kubelet, s
        self.said: list[str] = []  # what apiha wrote to stderr and should not have
        self._folder = folder
        self._rng = random.Random(seed)
        self._lock = threading.Lock()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._generation = 0  # counts boots; the threads of an earlier one end
        config = "".join(f"{key}: {value}\n" for key, value in settings.items())
        (folder / "config.yaml").write_text(config)
        self._log = (folder / "log").open("ab", buffering=0)

    # ------------------------------------------------------------------------------------- what happens to it

    def boot(self) -> None:
        """Power on: pin, then kubelet and the wait for the VIP side by side, and reconcile now and then."""
        with self._lock:
            self._generation += 1
            generation = self._generation
        self.boots += 1
        self._thread(self._bootstrap, generation)

    def power_cut(self) -> None:
        """Everything stops at once; the rules of the Service proxy are gone."""
        with self._lock:
            self._generation += 1
            processes = list(self._processes.values())
        for process in processes:
            process.kill()
        self.vip.stop()

    def proxy_on(self) -> None:
        """The Service proxy writes its rules: the VIP answers as long as a control plane does."""
        with self._lock, contextlib.suppress(OSError):
            self.vip.start()

    def kill(self, choice: float) -> bool:
        """SIGKILL to one of apiha's processes, drawn by `choice` in [0, 1); False if none is running."""
        with self._lock:
            running = [process for process in self._processes.values() if process.poll() is None]
        if running:
            running[int(choice * len(running))].kill()
            self.kills += 1
        return bool(running)

    def close(self) -> None:
        """Switch off, and wait for everything."""
        self.power_cut()
        for process in list(self._processes.values()):
            process.wait()
        self._log.close()
        self.said += [
            line
            for line in (self._folder / "log").read_text("utf-8", "replace").splitlines()
            if "Traceback" in line or "internal error" in line
        ]

    # ---------------------------------------------------------------------------------------------- its units

    def _alive(self, generation: int) -> bool:
        return generation == self._generation

    def _thread(self, body: Callable[..., None], *arguments: Any) -> None:
        threading.Thread(target=body, args=arguments, daemon=True).start()

    def _apiha(self, generation: int, unit: str, *arguments: str, limit: float | None) -> int | None:
        """Run apiha to its end; None if the worker went down, or the unit's time limit ended it."""
        place = ["--config", self._folder / "config.yaml", "--hosts-file", self.hosts]
        command = [
            sys.executable,
            "-m",
            "apiha",
            *map(str, place),
            "--state-dir",
            str(self._folder / "state"),
        ]
        environ = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
        with self._lock:
            if not self._alive(generation):
                return None
            process = subprocess.Popen(
                [*command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._log,
                env=environ,
            )
            self._processes[unit] = process
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return None
        return code if self._alive(generation) else None

    def _bootstrap(self, generation: int) -> None:
        began = time.monotonic()
        self._apiha(generation, "bootstrap", "pin-host", "--wait", "20s", limit=START_LIMIT)
        if not self._alive(generation):
            return
        self.held.append(time.monotonic() - began)  # kubelet starts now
        self._thread(self._wait_vip, generation)
        self._thread(self._reconcile, generation)
        time.sleep(self._rng.uniform(*PROXY_STARTS))
        if self._alive(generation):
            self.proxy_on()

    def _wait_vip(self, generation: int) -> None:
        while self._alive(generation):
            if self._apiha(generation, "vip", "wait-vip", "--timeout", "0", limit=None) == 0:
                return
            time.sleep(RESTART)

    def _reconcile(self, generation: int) -> None:
        """The timer, and the path unit: a file that another program wrote is looked at at once."""
        while self._alive(generation):
            before = self.hosts.stat().st_mtime_ns if self.hosts.exists() else 0
            until = time.monotonic() + TIMER
            while time.monotonic() < until and self._alive(generation):
                time.sleep(SETTLE)
                with contextlib.suppress(OSError):
                    if self.hosts.stat().st_mtime_ns != before:
                        break
            self._apiha(generation, "reconcile", "reconcile", limit=60.0)
