"""What is wrong, from what was seen: `CHECKS` is the one table of all checks, `judge` runs them. Pure."""

from __future__ import annotations

from apiha.errors import ExitCode
from apiha.findings import Severity
from apiha.node.context import LOOPBACK
from apiha.status import failfast, rules, validity
from apiha.status.model import Check, Observations, Status

ERROR, WARNING = Severity.ERROR, Severity.WARNING

CHECKS = (
    # code, severities, what it means, what to do, how it is found
    Check(
        "configuration",
        (ERROR,),
        "the configuration, or a file that it names, cannot be used",
        "fix the configuration; nothing could be probed",
        rules.configuration,
    ),
    Check(
        "ca-missing",
        (ERROR,),
        "the cluster's CA is missing, or cannot be read",
        "copy the cluster's CA certificate (PEM) to this node and set ca_file",
        rules.ca_missing,
    ),
    Check(
        "ca-expired",
        (ERROR,),
        "the cluster's CA has expired",
        "rotate the cluster's CA: https://kubernetes.io/docs/tasks/tls/manual-rotation-of-ca-certificates/",
        validity.ca_expired,
    ),
    Check(
        "ca-expiring",
        (WARNING,),
        "the cluster's CA expires within 30 days",
        "rotate the cluster's CA: https://kubernetes.io/docs/tasks/tls/manual-rotation-of-ca-certificates/",
        validity.ca_expiring,
    ),
    Check(
        "hosts-file",
        (ERROR,),
        "the hosts file cannot be read",
        "make the hosts file readable",
        rules.hosts_file,
    ),
    Check(
        "foreign-line",
        (ERROR, WARNING),
        "a line outside the block names the host",
        "remove the line, or set on_conflict: adopt to have it commented out until `apiha unpin`",
        rules.foreign_line,
    ),
    Check(
        "write-interrupted",
        (ERROR,),
        "a write of the hosts file was interrupted",
        "run `apiha reconcile`, which repairs the file",
        rules.write_interrupted,
    ),
    Check(
        "line-too-long",
        (ERROR,),
        "kubelet does not see the block: a line before it is too long for Go programs",
        "shorten the line, or move it behind the block",
        rules.line_too_long,
    ),
    Check(
        "no-block",
        (ERROR,),
        "the hosts file has no block",
        "run `apiha pin-host`",
        rules.no_block,
    ),
    Check(
        "block-edited",
        (ERROR,),
        "the block is not what apiha writes for this configuration",
        "run `apiha reconcile`; lines of your own belong outside the block",
        rules.block_edited,
    ),
    Check(
        "address-order",
        (WARNING,),
        "Go programs do not dial the block's first address first: they sort IPv6 addresses",
        "use IPv4 addresses alone, or accept that this node's clients take a control plane before the VIP",
        rules.address_order,
    ),
    Check(
        "two-writers",
        (WARNING,),
        "another program changes the block again and again",
        "find that program, and let it keep the lines between apiha's markers",
        rules.two_writers,
    ),
    Check(
        "port-mismatch",
        (WARNING,),
        "a control plane listens on a port that clients do not dial",
        "set port to the one that all control planes and kubeconfigs use",
        rules.port_mismatch,
    ),
    Check(
        "no-control-planes-known",
        (ERROR, WARNING),
        "no control plane is configured or learned: the node depends on the VIP alone",
        "list the control planes in the configuration (control_plane)",
        rules.no_control_planes_known,
    ),
    Check(
        "role",
        (ERROR,),
        "a control-plane node whose block does not start with its own API server",
        "run `apiha reconcile`",
        rules.role,
    ),
    Check(
        "no-control-plane",
        (ERROR,),
        "no control plane is ready or alive; exit code 3",
        "see WHY in the table: is this node's network up, are the addresses right?",
        rules.no_control_plane,
        ExitCode.NO_CONTROL_PLANE,
    ),
    Check(
        "first-dead",
        (ERROR,),
        "the control plane that comes first in the block is neither ready nor alive",
        "run `apiha reconcile` (the timer does, every few minutes)",
        rules.first_dead,
    ),
    Check(
        "control-plane-down",
        (WARNING,),
        "another control plane is neither ready nor alive",
        "look at that machine; this node works without it",
        rules.control_plane_down,
    ),
    Check(
        "left-out",
        (WARNING,),
        "a control plane is untrusted or broken, so it is no fallback",
        "look at that machine: its certificate, or what else listens there",
        rules.left_out,
    ),
    Check(
        "vip-down",
        (ERROR, WARNING),
        "the VIP is neither ready nor alive; an error if it comes first in the block",
        "run `apiha reconcile`; then look at kube-proxy on this node and at the Service `apiserver`",
        rules.vip_down,
    ),
    Check(
        "not-swapped",
        (WARNING,),
        "the VIP answers, but does not come first in the block",
        "apiha-vip.service swaps within seconds, else run `apiha reconcile`",
        rules.not_swapped,
    ),
    Check(
        "clock-skew",
        (WARNING, ERROR),
        "clocks differ by more than 60 s; an error if a certificate is refused because of it",
        "set the clock (chrony, systemd-timesyncd)",
        validity.clock_skew,
    ),
    Check(
        "certificate-validity",
        (ERROR,),
        "a serving certificate has expired, or is not valid yet",
        "renew that control plane's serving certificate (`kubeadm certs renew apiserver`)",
        validity.certificate_validity,
    ),
    Check(
        "certificate-expiring",
        (WARNING,),
        "a serving certificate expires within 30 days",
        "renew it on that control plane (`kubeadm certs renew apiserver`, then restart kube-apiserver)",
        validity.certificate_expiring,
    ),
    Check(
        "unit-failed",
        (ERROR, WARNING),
        "a unit failed; a warning if the node is right again",
        "`journalctl -u 'apiha-*' -b` says why",
        rules.unit_failed,
    ),
    Check(
        "unit-disabled",
        (ERROR,),
        "a unit will not run at the next boot",
        "`systemctl enable` that unit",
        rules.unit_disabled,
    ),
    Check(
        "unit-inactive",
        (WARNING,),
        "a timer or path unit starts nothing until the next reboot",
        "`systemctl start` that unit",
        rules.unit_inactive,
    ),
    Check(
        "unit-missing",
        (WARNING,),
        "a unit is not installed",
        "run `apiha install`; without the units nothing happens at the next boot",
        rules.unit_missing,
    ),
    Check(
        "fail-fast",
        (WARNING,),
        "fail fast is switched on and does not work, or not as the configuration says",
        "run `apiha fail-fast on`, which says what is missing",
        failfast.not_in_force,
    ),
    Check(
        "control-plane-silent",
        (WARNING,),
        "the kernel refuses a control plane that does not answer: it lost power, or the way to it is cut",
        "look at that machine and its network; this node's clients take another one meanwhile",
        failfast.silent,
    ),
    Check(
        "kubeconfig",
        (WARNING,),
        "kubelet does not use the name",
        "set server: in kubelet's kubeconfig to the name, and restart kubelet",
        rules.kubeconfig,
    ),
    Check(
        "cloud-init",
        (WARNING,),
        "cloud-init rewrites the hosts file at each boot",
        "set manage_etc_hosts: false; apiha puts its block back at each boot, but your own lines are lost",
        rules.cloud_init,
    ),
    Check(
        "nsswitch",
        (ERROR,),
        "no program reads the hosts file",
        "put files before dns in that line",
        rules.nsswitch,
    ),
    Check(
        "insecure",
        (WARNING,),
        "certificates are not verified",
        "set ca_file and remove insecure_skip_tls_verify",
        rules.insecure,
    ),
)


def judge(seen: Observations) -> Status:
    """Run every check; errors come before warnings, else the order is that of the table."""
    findings = [finding for check in CHECKS for finding in check.findings(seen)]
    return Status(seen, meaning(seen), sorted(findings, key=lambda finding: finding.severity is not ERROR))


def meaning(seen: Observations) -> str:
    """What the block says, in a few words."""
    first = seen.first
    if seen.hosts.block is None:
        return "unreadable"
    if first is None:
        return "no block"
    if not seen.configured:
        return f"{first} comes first; without a configuration apiha cannot tell whether that is right"
    if first == seen.config.vip:
        return f"swapped: the VIP {first} comes first"
    if first == LOOPBACK and seen.config.role == "control-plane":
        return "this node's own API server comes first"
    if first in {endpoint.address for endpoint in seen.control_planes}:
        return f"pinned: control plane {first} comes first"
    if not seen.all_known:
        return f"{first} comes first; only root can tell whether it is a control plane that was learned"
    return f"{first} comes first, which is neither the VIP nor a control plane"
