"""What `apiha status` sees (`Observations`) and what it says about it (`Status`). Data only: no I/O, no judgement."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

from apiha import findings
from apiha.config import Config
from apiha.endpoint import Endpoint
from apiha.errors import ExitCode
from apiha.failfast.table import Table
from apiha.findings import Finding, Severity
from apiha.hosts import BlockState, ForeignLine
from apiha.hosts.rivalry import Rivalry
from apiha.paths import HOSTS_FILE, KUBELET_KUBECONFIG
from apiha.probe import ProbeResult


@dataclass(frozen=True)
class Answer:
    """What one address said, and which part it plays."""

    role: Literal["control-plane", "vip"]
    result: ProbeResult


@dataclass(frozen=True)
class UnitState:
    """One systemd unit, by `systemctl show`."""

    name: str
    load: str
    active: str
    sub: str
    enabled: str
    sandboxed: bool = True  # of a service: whether the drop-in with its sandbox is applied

    def __str__(self) -> str:
        if self.load == "not-found":
            return "not installed"
        return f"{self.active} ({self.sub})" + (f", {self.enabled}" if self.enabled else "")


@dataclass(frozen=True)
class HostsFileView:
    """The hosts file: the block in it, other lines for the name, and what an interrupted write left behind.

    `block` is None if the file cannot be read, and `error` says why. `backup` holds the file's earlier content if a
    write in place was interrupted. `rivalry` is how often another program changed the block.
    """

    path: Path = HOSTS_FILE
    block: BlockState | None = None
    error: str = ""
    foreign: tuple[ForeignLine, ...] = ()
    backup: Path | None = None
    rivalry: Rivalry = field(default_factory=Rivalry)


@dataclass(frozen=True)
class CaView:
    """The cluster's CA: where it is, until when it is valid (UTC), or in `error` why there is none.

    `hidden`: this user may not read what is there. `expires` is None where the dates cannot be read, or do not matter.
    """

    source: str = ""
    expires: datetime | None = None
    error: str = ""
    hidden: bool = False


@dataclass(frozen=True)
class KubeletView:
    """The URL of the API server in kubelet's kubeconfig; None if there is none that can be read."""

    path: Path = KUBELET_KUBECONFIG
    server: str | None = None


@dataclass(frozen=True)
class FailFastView:
    """The nftables table of fail fast, None if it is not loaded; `problem` says why it cannot be.

    `hidden`: only root can tell.
    """

    table: Table | None = None
    problem: str = ""
    hidden: bool = False


@dataclass(frozen=True)
class Observations:
    """Everything that was looked at, at one moment (`now`, UTC).

    `config_error` says why nothing was probed; with `configured` False the configuration itself is at fault, and
    `config` is a guess. `sources` has this machine's own address for the way to each address of the block; one without
    a route is missing. `control_planes` are those configured and learned, `drained` the addresses of those under
    maintenance, as of this node's last pass; `all_known` is False if this user may not read what was learned. `units`
    is empty where systemd does not run. `rewritten_by` are the places in cloud-init's configuration, file and line,
    that make it rewrite the hosts file; `nsswitch` are the words of the `hosts:` line, None where there is none.
    """

    config: Config
    now: datetime
    hosts: HostsFileView = field(default_factory=HostsFileView)
    sources: Mapping[str, str] = field(default_factory=dict)
    ca: CaView = field(default_factory=CaView)
    configured: bool = True
    config_error: str = ""
    control_planes: tuple[Endpoint, ...] = ()
    drained: frozenset[str] = frozenset()
    all_known: bool = True
    answers: tuple[Answer, ...] = ()
    units: tuple[UnitState, ...] = ()
    kubelet: KubeletView = field(default_factory=KubeletView)
    fail_fast: FailFastView = field(default_factory=lambda: FailFastView(hidden=True))
    rewritten_by: tuple[tuple[str, int], ...] = ()
    nsswitch: tuple[str, ...] | None = None

    @property
    def first(self) -> str | None:
        """The address that clients of this node try first."""
        block = self.hosts.block
        return block.addresses[0] if block and block.addresses else None

    @property
    def planes(self) -> list[ProbeResult]:
        """The answers of the control planes."""
        return [answer.result for answer in self.answers if answer.role == "control-plane"]

    @property
    def vip(self) -> ProbeResult | None:
        """The answer of the VIP, if there is one that was asked."""
        return next((answer.result for answer in self.answers if answer.role == "vip"), None)


@dataclass(frozen=True)
class Found:
    """One thing that a check found; what is left empty is said by the check's row."""

    message: str
    severity: Severity | None = None
    advice: str = ""
    exit_code: ExitCode | None = None


@dataclass(frozen=True)
class Check:
    """What can be wrong: how bad that is, what it means, what to do, and how it is found (`find`, pure).

    `severities` are those that its findings can have, the usual one first; `exit_code` is what an error means for the
    process. `code` is the heading in the documentation as well.
    """

    code: str
    severities: tuple[Severity, ...]
    meaning: str
    advice: str
    find: Callable[[Observations], Iterable[Found]]
    exit_code: ExitCode = ExitCode.PROBLEMS

    @property
    def anchor(self) -> str:
        """Where the documentation explains it."""
        return f"operations.md#{self.code}"

    def findings(self, seen: Observations) -> Iterator[Finding]:
        """Everything that this check finds."""
        for found in self.find(seen):
            yield Finding(
                found.severity or self.severities[0],
                self.code,
                found.message,
                found.advice or self.advice,
                self.anchor,
                found.exit_code or self.exit_code,
            )


@dataclass(frozen=True)
class Status:
    """What was seen, what the block means in a few words, and what is wrong; no finding if nothing is."""

    seen: Observations
    meaning: str
    findings: Sequence[Finding] = ()

    @property
    def exit_code(self) -> ExitCode:
        """OK without an error, else CONFIG, NO_CONTROL_PLANE or PROBLEMS: the first of these that an error has.

        Without a configuration, or without any control plane, the other errors follow from that one.
        """
        codes = {finding.exit_code for finding in self.findings if finding.severity is Severity.ERROR}
        for worst in (ExitCode.CONFIG, ExitCode.NO_CONTROL_PLANE):
            if worst in codes:
                return worst
        return findings.exit_code(self.findings)
