"""What the cluster's answers mean for the manifests. Pure: answers in, findings out."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from apiha.endpoint import Endpoint
from apiha.errors import ExitCode
from apiha.findings import Finding, Severity
from apiha.manifests.render import Values, family_of
from apiha.names import SERVICE
from apiha.probe import Health, ProbeResult

LABELS = {
    Severity.OK: "ok",
    Severity.WARNING: "WARNING",
    Severity.ERROR: "FAILED",
    Severity.UNKNOWN: "UNKNOWN",
}
# What a check is about, and where the documentation explains it.
ANCHORS = {
    "api-server": "cluster.md#2-look-before-you-apply",
    "namespace": "cluster.md#3-the-service-and-its-updater",
    "vip": "cluster.md#before-you-start",
    "service": "cluster.md#before-you-start",
    "control-planes": "cluster.md#before-you-start",
    "certificate": "cluster.md#1-the-name-in-the-serving-certificates",
    "access": "cluster.md#rights",
    "binding": "cluster.md#rights",
    "dry-run": "cluster.md#2-look-before-you-apply",
}


def ok(code: str, message: str) -> Finding:
    """A check that went well."""
    return Finding(Severity.OK, code, message, anchor=ANCHORS[code])


def failed(code: str, message: str, advice: str, exit_code: ExitCode = ExitCode.CONFIG) -> Finding:
    """A check that found what would not work."""
    return Finding(Severity.ERROR, code, message, advice, ANCHORS[code], exit_code)


def unknown(code: str, message: str, advice: str = "") -> Finding:
    """A check that could not be made."""
    return Finding(Severity.UNKNOWN, code, message, advice, ANCHORS[code])


def text_of(finding: Finding) -> str:
    """The finding for people: one line that says what is where; below it, unless all is well, what to do and a link."""
    lines = [f"{LABELS[finding.severity]:<8} {' '.join(finding.message.split())}"]
    if finding.severity is not Severity.OK:
        lines += [f"{'':<8} -> {finding.advice}"] if finding.advice else []
        lines.append(f"{'':<8} see {finding.link}")
    return "\n".join(lines)


OLDEST = (1, 30)  # ValidatingAdmissionPolicy is in v1 since then


def judge_version(version: Mapping[str, Any]) -> Finding:
    """Whether the API server knows everything that the manifests hold; `version` is the answer to /version."""
    name = version.get("gitVersion", "of unknown version")
    numbers = [re.match(r"\d+", str(version.get(key, ""))) for key in ("major", "minor")]
    known = [int(number[0]) for number in numbers if number is not None]  # a minor may be `29+`
    if len(known) == 2 and tuple(known) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        return failed(
            "api-server",
            f"the API server is Kubernetes {name}, which has no ValidatingAdmissionPolicy v1",
            f"upgrade to Kubernetes {oldest} or newer",
        )
    return ok("api-server", f"the API server answers: Kubernetes {name}")


def judge_vip(vip: str, cidrs: Sequence[str] | None, holder: str | None, service: str) -> Finding:
    """Whether the VIP is inside one of the Service CIDRs (None: not known) and free, or held by our own Service."""
    address = ipaddress.ip_address(vip)
    if cidrs is not None:
        networks = [ipaddress.ip_network(cidr) for cidr in cidrs]
        network = next((n for n in networks if n.version == address.version and address in n), None)
        if network is None:
            return failed(
                "vip",
                f"VIP {vip} is outside the Service CIDR {', '.join(cidrs)}",
                "give --vip a free address inside it",
            )
        # kube-apiserver hands out neither: the subnet's own address, and IPv4's broadcast address.
        if address == network.network_address or (
            address.version == 4 and address == network.broadcast_address
        ):
            return failed(
                "vip",
                f"VIP {vip} is the first or last address of {network}, which Kubernetes gives to no Service",
                "give --vip another free address",
            )
    if holder == service:
        return ok("vip", f"VIP {vip} already belongs to {service}")
    if holder is not None:
        return failed(
            "vip", f"VIP {vip} is taken by {holder}", f"give --vip a free address, or delete {holder} first"
        )
    inside = (
        "and the API server will say whether it is inside the Service CIDR"
        if cidrs is None
        else f"inside {', '.join(cidrs)}"
    )
    return ok("vip", f"VIP {vip} is free, {inside}")


def judge_service(live: Mapping[str, Any] | None, values: Values) -> list[Finding]:
    """Whether a Service that exists already can become ours: its clusterIPs cannot be changed."""
    if live is None:
        return []
    name, spec = f"Service {values.namespace}/{SERVICE}", live.get("spec", {})
    has = spec.get("clusterIPs") or [spec.get("clusterIP")]
    findings = []
    if [canonical(address) for address in has] != list(values.vips):
        findings.append(
            failed(
                "service",
                f"{name} exists with clusterIP {', '.join(map(str, has))}, which cannot be changed to "
                f"{', '.join(values.vips)}",
                "delete the Service first, or give its clusterIP as --vip",
            )
        )
    if spec.get("selector"):
        findings.append(
            failed(
                "service",
                f"{name} exists with a selector, so Kubernetes writes slices of its own for it",
                "delete the Service first",
            )
        )
    return findings


def judge_binding(live: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> list[Finding]:
    """Whether a RoleBinding that is there already is ours: applying would take the rights of others away."""
    ours = {_subject(subject) for subject in wanted["subjects"]}
    others = sorted({_subject(subject) for subject in (live or {}).get("subjects") or ()} - ours)
    if not others:
        return []
    metadata = wanted["metadata"]
    return [
        failed(
            "binding",
            f"RoleBinding {metadata['namespace']}/{metadata['name']} exists for {', '.join(others)}, who would lose "
            "these rights",
            "rename or delete that RoleBinding first",
        )
    ]


def _subject(subject: Mapping[str, Any]) -> str:
    namespace = f"{subject['namespace']}/" if subject.get("namespace") else ""
    return f"{subject['kind']} {namespace}{subject['name']}"


def judge_control_planes(endpoints: Sequence[Endpoint], values: Values) -> list[Finding]:
    """Whether the control planes can stand behind these VIPs, and beside them in a hosts file."""
    findings = []
    have = {family_of(endpoint.address) for endpoint in endpoints}
    for vip in values.vips:
        if family_of(vip) not in have:
            findings.append(
                failed(
                    "control-planes",
                    f"VIP {vip}: no control plane has an {family_of(vip)} address in the Service "
                    "default/kubernetes, so nothing would answer there",
                    f"give --vip an {' or '.join(sorted(have))} address",
                )
            )
    ports = sorted({endpoint.port for endpoint in endpoints})
    if ports != [values.port]:
        listed = ", ".join(map(str, ports))
        findings.append(
            failed(
                "control-planes",
                f"the control planes listen on port {listed}, the VIP would listen on {values.port}, and a kubeconfig "
                "has one port for both",
                f"give --port {ports[0]}",
            )
        )
    return findings


def judge_certificate(result: ProbeResult, host: str) -> Finding:
    """Whether a control plane proved itself for the host's name."""
    where = f"control plane {result.endpoint}"
    if result.health.genuine:
        return ok("certificate", f"{where}: its certificate is valid for {host}")
    if result.clock_problem:
        return failed(
            "certificate",
            f"{where}: {result.detail}",
            "renew the certificate (`kubeadm certs renew apiserver`), or set this machine's clock",
        )
    if result.health is Health.UNTRUSTED:
        return failed(
            "certificate",
            f"{where}: {result.detail}",
            f"add {host} to apiServer.certSANs and issue a new certificate (`kubeadm init phase certs apiserver`), or "
            "give --host a name that the certificate has",
        )
    return unknown(
        "certificate",
        f"{where}: {result.detail}",
        f"run this from a machine that can reach it, to check whether its certificate is valid for {host}",
    )


def access_reviews(documents: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A SelfSubjectAccessReview for each right that `kubectl apply` needs, each once."""
    reviews: dict[str, dict[str, Any]] = {}
    for document in documents:
        group, _, _ = document["apiVersion"].rpartition("/")
        namespace = document["metadata"].get("namespace")  # a Namespace is in none
        for verb in ("get", "create", "patch"):
            attributes = {
                "group": group,
                "resource": _resource(document["kind"]),
                **({} if namespace is None else {"namespace": namespace}),
                "verb": verb,
                # A POST does not name what it creates: RBAC cannot see a name either.
                **({} if verb == "create" else {"name": document["metadata"]["name"]}),
            }
            reviews[json.dumps(attributes)] = {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SelfSubjectAccessReview",
                "spec": {"resourceAttributes": attributes},
            }
    return list(reviews.values())


def _resource(kind: str) -> str:
    """The resource of a kind, as English forms the plural: `roles`, `validatingadmissionpolicies`."""
    name = kind.lower()
    return f"{name[:-1]}ies" if name.endswith("cy") else f"{name}s"


def judge_access(answers: Iterable[Mapping[str, Any]]) -> list[Finding]:
    """One finding for each kind and namespace that lacks a right, or one that all is well."""
    lacking: dict[str, list[str]] = {}
    for answer in answers:
        if answer.get("status", {}).get("allowed") is not True:
            attributes = answer["spec"]["resourceAttributes"]
            group = attributes.get("group")
            where = f" in {attributes['namespace']}" if attributes.get("namespace") else ""
            what = f"{attributes['resource']}{f'.{group}' if group else ''}{where}"
            verbs = lacking.setdefault(what, [])
            if attributes["verb"] not in verbs:
                verbs.append(attributes["verb"])
    if not lacking:
        return [ok("access", "you may get, create and patch every object of the manifests")]
    return [
        failed(
            "access",
            f"you may not {', '.join(verbs)} {what}",
            "apply with a kubeconfig that may, such as kubeadm's admin.conf",
            ExitCode.NOT_PERMITTED,
        )
        for what, verbs in lacking.items()
    ]


def canonical(address: object) -> str:
    """An address in the one way of writing it that is compared; any other text as it is."""
    try:
        return str(ipaddress.ip_address(str(address)))
    except ValueError:
        return str(address)  # `None`: a headless Service
