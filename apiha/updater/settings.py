"""What the command line says, checked.

Reads: its arguments, and the machine's name for `default_identity`. Writes: nothing.
Imported by the command line itself, so it imports nothing heavy.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from apiha.endpoint import parse_ip, parse_port
from apiha.errors import ConfigError
from apiha.names import SERVICE
from apiha.settings import LABEL


class Listen(NamedTuple):
    """Where the pages are served; an empty address is every address, port 0 a free one."""

    address: str
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


DEFAULT_LISTEN = Listen("", 8080)


def parse_listen(text: str) -> Listen:
    """`:8080`, `ADDR:PORT` or `[ADDR6]:PORT`; raises ValueError for anything else."""
    address, colon, port = text.rpartition(":")
    address = address.removeprefix("[").removesuffix("]")
    try:
        if not colon:
            raise ValueError("the port is missing")
        number = 0 if port == "0" else parse_port(port)
        return Listen("" if address in ("", "0.0.0.0", "::") else parse_ip(address), number)  # noqa: S104
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}; expected for example :8080 or 127.0.0.1:8080") from None


def parse_name(text: str) -> str:
    """The name of a namespace or a Service (RFC 1123 label); raises ValueError for anything else."""
    if not LABEL.fullmatch(text):
        raise ValueError(
            f"{text!r} is not a valid Kubernetes name; expected a to z, 0 to 9 and -, at most 63 characters"
        )
    return text


def parse_vips(text: str) -> tuple[str, ...]:
    """One address, or several separated by commas; raises ValueError."""
    return tuple(parse_ip(part.strip()) for part in text.split(",") if part.strip())


def default_identity() -> str:
    """The Pod's name (its hostname) and a random number.

    The number is for a process that starts anew under the same name: it must not take itself for the one that
    held the Lease.
    """
    import secrets
    import socket

    return f"{os.environ.get('POD_NAME') or socket.gethostname()}_{secrets.token_hex(4)}"


@dataclass(frozen=True)
class Settings:
    """What the updater runs with; times in seconds. Each value has the form that its flag's type gives it.

    `vips` are the clusterIPs that the Service should have, if any given. Raises ConfigError for times that cannot
    work together.
    """

    kubeconfig: Path | None = None
    namespace: str = "kube-system"
    service: str = SERVICE
    vips: tuple[str, ...] = ()
    host: str = "apiserver.cluster.local"
    identity: str = field(default_factory=default_identity)
    lease_duration: float = 8.0
    renew_deadline: float = 6.0
    retry_period: float = 2.0
    health_check: bool = True
    health_interval: float = 1.0
    health_failures: int = 2
    resync: float = 300.0
    listen: Listen = DEFAULT_LISTEN

    def __post_init__(self) -> None:
        check_timing(self.lease_duration, self.renew_deadline, self.retry_period)


def check_timing(lease_duration: float, renew_deadline: float, retry_period: float) -> None:
    """Raises ConfigError for timings that cannot work, by the rules of client-go and of the Lease's whole
    seconds.
    """
    if lease_duration != int(lease_duration) or lease_duration < 1:
        raise ConfigError("--lease-duration: a Lease counts whole seconds; expected for example 8s")
    if lease_duration <= renew_deadline:
        raise ConfigError(
            "--lease-duration: expected more than --renew-deadline, or two replicas could write at once"
        )
    if retry_period < 1 or renew_deadline < 1:
        raise ConfigError("--renew-deadline and --retry-period: expected at least a second each")
    if renew_deadline <= 1.2 * retry_period:
        raise ConfigError(
            "--renew-deadline: expected more than 1.2 times --retry-period, to leave time for a second try"
        )
