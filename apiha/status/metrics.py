"""What a pass found, as metrics. Pure; docs/monitoring.md says what each means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from apiha import __version__
from apiha.findings import Finding, Severity
from apiha.node.context import LOOPBACK
from apiha.probe import ProbeResult
from apiha.status.model import Observations, Status
from apiha.textfile import Family, Sample, gauge

LAST_SUCCESS = "apiha_node_last_success_timestamp_seconds"
STATES = ("swapped", "pinned", "own", "neither")


def families(status: Status, last_success: float) -> list[Family]:
    """The metrics of a node. `last_success` is a Unix time in seconds, 0 for never."""
    seen = status.seen
    vip = seen.vip
    return [
        gauge("apiha_node_build_info", "1; the version is in the label", 1, version=__version__),
        gauge(
            LAST_SUCCESS,
            "Unix time when a pass last left the block as it should be; 0 before the first time",
            last_success,
        ),
        Family(
            "apiha_node_block_state",
            "gauge",
            "1 for what the block in the hosts file puts first: the VIP (swapped), a control plane (pinned), this "
            "node's own API server (own), neither; 0 for the others",
            tuple(Sample(float(state == block_state(seen)), {"state": state}) for state in STATES),
        ),
        gauge(
            "apiha_node_address_info",
            "1; the label is the address that clients of this node try first",
            None if seen.first is None else 1,
            address=seen.first or "",
        ),
        Family(
            "apiha_node_control_plane_up",
            "gauge",
            "1 if the control plane answered as ready or alive when it was last asked, else 0",
            tuple(Sample(float(r.health.usable), {"address": str(r.endpoint)}) for r in seen.planes),
        ),
        gauge(
            "apiha_node_vip_up",
            "1 if the VIP answered as ready or alive when it was last asked, else 0",
            None if vip is None else float(vip.health.usable),
        ),
        Family(
            "apiha_node_certificate_expiry_timestamp_seconds",
            "gauge",
            "Unix time when the serving certificate at this address expires",
            tuple(_expiries(answer.result for answer in seen.answers)),
        ),
        gauge(
            "apiha_node_ca_expiry_timestamp_seconds",
            "Unix time when the cluster's CA expires; of several, the last",
            None if seen.ca.expires is None else seen.ca.expires.timestamp(),
        ),
        Family(
            "apiha_node_problems",
            "gauge",
            "How many problems there are",
            tuple(_counted(status.findings, severity) for severity in (Severity.ERROR, Severity.WARNING)),
        ),
        Family(
            "apiha_node_problem",
            "gauge",
            "How often this problem is present; no series if it is not",
            tuple(
                Sample(count, {"code": code, "severity": severity})
                for (code, severity), count in sorted(
                    Counter((found.code, found.severity.value) for found in status.findings).items()
                )
            ),
        ),
    ]


def block_state(seen: Observations) -> str:
    """One of `STATES`: what comes first in the block."""
    if seen.first is None:
        return "neither"
    if seen.first == seen.config.vip:
        return "swapped"
    if seen.first == LOOPBACK and seen.config.role == "control-plane":
        return "own"
    known = {endpoint.address for endpoint in seen.control_planes}
    return "pinned" if seen.first in known else "neither"


def _expiries(results: Iterable[ProbeResult]) -> Iterable[Sample]:
    for result in results:
        if result.certificate_expires is not None:
            yield Sample(result.certificate_expires.timestamp(), {"address": str(result.endpoint)})


def _counted(findings: Iterable[Finding], severity: Severity) -> Sample:
    return Sample(sum(found.severity is severity for found in findings), {"severity": severity.value})
