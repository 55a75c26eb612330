"""Fresh Go clients on a machine: each makes a new connection by name, as a program does that has just started."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from tests.support.cache import cached, fingerprint
from tests.support.kubeadm.api import NAME
from tests.support.kubeadm.node import Node

if TYPE_CHECKING:
    from typing_extensions import Self

_SOURCE = Path(__file__).with_name("fresh.go")


@dataclass(frozen=True)
class Fresh:
    """One client: when it began and how long it took, in seconds, and whether it got its answer."""

    at: float
    took: float
    ok: bool


class FreshClients:
    """One client every 100 ms while the context lasts; afterwards `results` has them all."""

    def __init__(self, node: Node) -> None:
        def build(folder: Path) -> None:
            environment = {**os.environ, "CGO_ENABLED": "0", "GO111MODULE": "off"}
            command = ["go", "build", "-o", str(folder / "fresh"), str(_SOURCE)]
            subprocess.run(command, check=True, env=environment, capture_output=True)

        node.put(
            cached("fresh-client", fingerprint([_SOURCE]), build) / "fresh",
            "/usr/local/bin/fresh",
            mode=0o755,
        )
        self._node = node
        self._process: subprocess.Popen[str] | None = None
        self.results: list[Fresh] = []

    def __enter__(self) -> Self:
        # Not /readyz or /livez: these say what etcd is like, which elects a leader when a machine is lost.
        command = ["/usr/local/bin/fresh", f"https://{NAME}:6443/version", "/etc/kubernetes/pki/ca.crt"]
        self._process = self._node.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process is not None
        out, _ = self._process.communicate(timeout=90.0)
        self.results = [Fresh(**json.loads(line)) for line in out.splitlines()]
