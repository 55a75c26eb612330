"""Clients on a worker: the small Go program beside this file, or kubectl where there is no Go toolchain."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.kube import assets_directory
from tests.support.netns import Host
from tests.support.updater import ROOT

EVERY = 0.1  # s between two fresh clients
SOURCE = Path(__file__).parent / "go_clients"


@dataclass(frozen=True)
class Fresh:
    """A client that connected anew: `start` in seconds since the epoch, how long it took, whether it was answered."""

    start: float
    seconds: float
    ok: bool


def build(folder: Path) -> Path | None:
    """The Go program, built into `folder`; None where there is no Go toolchain."""
    if shutil.which("go") is None:
        return None
    program = folder / "clients"
    environ = {**os.environ, "GOTOOLCHAIN": "local", "GOPROXY": "off", "CGO_ENABLED": "0"}
    subprocess.run(
        ["go", "build", "-o", str(program), "."], cwd=SOURCE, env=environ, check=True, capture_output=True
    )
    return program


class Clients:
    """What runs on the worker: fresh clients, and clients that hold a watch."""

    def __init__(self, worker: Host, program: Path | None, url: str, files: Sequence[Path]) -> None:
        """`files` are the CA, the client certificate and its key."""
        self._worker = worker
        self._program = program
        self._arguments = [url, *map(str, files)]

    def start_fresh(self, seconds: float) -> subprocess.Popen[str]:
        """A new client by name every 100 ms."""
        if self._program is None:
            command = [sys.executable, "-m", "tests.bench.clients", str(seconds)]
        else:
            command = [str(self._program), "fresh", *self._arguments, str(seconds)]
        return self._popen(command)

    def start_watches(self, seconds: float, count: int) -> subprocess.Popen[str] | None:
        """Clients with a watch and a request every 200 ms on one connection each; None without the Go program."""
        if self._program is None:
            return None
        return self._popen([str(self._program), "watch", *self._arguments, str(seconds), str(count)])

    def _popen(self, command: Sequence[str]) -> subprocess.Popen[str]:
        process: subprocess.Popen[str] = self._worker.popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        return process


def read(process: subprocess.Popen[str], limit: float) -> Any:
    """What a client process printed, parsed."""
    output, _ = process.communicate(timeout=limit)
    return json.loads(output)


async def kubectls(seconds: float) -> list[tuple[float, float, bool]]:
    """Start kubectl at a steady pace, however long each takes. Ten a second keep two cores busy."""
    command = [
        *(str(assets_directory() / "kubectl"), "--kubeconfig", "/etc/kubernetes/kubelet.conf"),
        *("get", "--raw", "/readyz"),
    ]

    async def one(delay: float) -> tuple[float, float, bool]:
        await asyncio.sleep(delay)
        start = time.time()
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        output, _ = await process.communicate()
        return start, time.time() - start, output == b"ok"

    return await asyncio.gather(*(one(i * EVERY) for i in range(int(seconds / EVERY))))


if __name__ == "__main__":  # the child on the worker
    print(json.dumps(asyncio.run(kubectls(float(sys.argv[1])))))
