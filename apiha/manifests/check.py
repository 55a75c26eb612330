"""`apiha manifests --dry-run`: would these manifests work in this cluster? Asks, and has the answers judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from apiha.endpoint import Endpoint
from apiha.errors import ExitCode, NoControlPlane
from apiha.findings import Finding, Severity
from apiha.kubectl import Kubectl, KubectlError, explained
from apiha.manifests.judge import (
    access_reviews,
    canonical,
    failed,
    judge_access,
    judge_binding,
    judge_certificate,
    judge_control_planes,
    judge_service,
    judge_version,
    judge_vip,
    ok,
    unknown,
)
from apiha.manifests.render import Values
from apiha.names import SERVICE
from apiha.probe import Prober, probe_all
from apiha.slices import ready_endpoints, slices_of_list
from apiha.trust import make_ssl_context

_PROBE_TIMEOUT = 3.0  # seconds
_ADVICE = "fix what the API server names; nothing was applied"


def check(values: Values, manifests: str, kubectl: Kubectl) -> list[Finding]:
    """Every check, in an order that reads well; raises NoControlPlane if no API server answers at all, NotPermitted if
    it does not accept the kubeconfig's credentials.
    """
    documents = [document for document in yaml.safe_load_all(manifests) if document]
    findings = [_version(kubectl)]
    if findings[0].severity is Severity.ERROR:
        return findings  # the other answers would be about what it does not know
    exists, namespace_findings = _namespace(kubectl, values)
    findings += namespace_findings
    vip_findings = _vips(kubectl, values)
    findings += vip_findings
    vips_fine = all(finding.severity is not Severity.ERROR for finding in vip_findings)
    endpoints, trouble = _control_planes(kubectl)
    findings += trouble or judge_control_planes(endpoints, values)
    findings += _certificates(kubectl, values, endpoints)
    access = judge_access(kubectl.create(access_reviews(documents)))
    findings += access
    for document in documents:
        if document["kind"] == "RoleBinding":
            findings += judge_binding(_get_or_none(kubectl, _path_of_binding(document)), document)
    if access[0].severity is Severity.OK and (exists or values.create_namespace):
        # The Service's address has been judged in better words than the API server's.
        rest = [document for document in documents if vips_fine or document["kind"] != "Service"]
        if not exists:  # the API server would refuse what goes into it
            rest = [item for item in rest if item["metadata"].get("namespace") != values.namespace]
        findings += _server_dry_run(kubectl, rest, values.namespace if not exists else None)
    return findings


def check_installer(values: Values, manifests: str, kubectl: Kubectl) -> list[Finding]:
    """The checks for the installer's manifests: may you apply them, and would the API server accept them?

    Raises like `check`.
    """
    documents = [document for document in yaml.safe_load_all(manifests) if document]
    findings = [_version(kubectl)]
    if findings[0].severity is Severity.ERROR:
        return findings
    exists, namespace_findings = _namespace(kubectl, values)
    access = judge_access(kubectl.create(access_reviews(documents)))
    findings += namespace_findings + access
    if exists and access[0].severity is Severity.OK:
        findings += _server_dry_run(kubectl, documents, None)
    return findings


def _version(kubectl: Kubectl) -> Finding:
    try:
        return judge_version(kubectl.get("/version"))
    except KubectlError as error:
        raise explained(error, "the version of the API server cannot be read") from None


def _path_of_binding(document: Mapping[str, Any]) -> str:
    metadata = document["metadata"]
    return (
        f"/apis/{document['apiVersion']}/namespaces/{metadata['namespace']}/rolebindings/{metadata['name']}"
    )


def _namespace(kubectl: Kubectl, values: Values) -> tuple[bool, list[Finding]]:
    """Whether the namespace exists, as far as we may see, and the findings about it."""
    try:
        kubectl.get(f"/api/v1/namespaces/{values.namespace}")
    except KubectlError as error:
        if error.reason == "NotFound":
            namespace = values.namespace
            if values.create_namespace:
                return False, [
                    ok("namespace", f"namespace {namespace} does not exist yet; the manifests create it")
                ]
            return False, [
                failed(
                    "namespace",
                    f"namespace {namespace} does not exist",
                    f"`kubectl create namespace {namespace}`, or give --create-namespace",
                )
            ]
        return True, [unknown("namespace", f"namespace {values.namespace}: {error}")]
    return True, []


def _vips(kubectl: Kubectl, values: Values) -> list[Finding]:
    service = f"Service {values.namespace}/{SERVICE}"
    live = _get_or_none(kubectl, f"/api/v1/namespaces/{values.namespace}/services/{SERVICE}")
    cidrs = _service_cidrs(kubectl)
    findings = []
    for vip in values.vips:
        try:
            holder = _holder(kubectl, vip, by_object=cidrs is not None)
        except KubectlError as error:
            findings.append(unknown("vip", f"VIP {vip}: cannot tell whether it is free: {error}"))
            continue
        findings.append(judge_vip(vip, cidrs, holder, service))
    return findings + judge_service(live, values)


def _get_or_none(kubectl: Kubectl, path: str) -> Any:
    """The object; None where it is absent or hidden from us (what we may not see is found by the review of access)."""
    try:
        return kubectl.get(path)
    except KubectlError:
        return None


def _service_cidrs(kubectl: Kubectl) -> list[str] | None:
    """All Service CIDRs (KEP-1880, Kubernetes 1.33 and newer); None where the API server does not tell."""
    listing = _get_or_none(kubectl, "/apis/networking.k8s.io/v1/servicecidrs")
    if listing is None:
        return None
    return [
        cidr
        for item in listing["items"]
        if not item["metadata"].get("deletionTimestamp")
        for cidr in item["spec"]["cidrs"]
    ]


def _holder(kubectl: Kubectl, vip: str, *, by_object: bool) -> str | None:
    """Who has this clusterIP, `Service NAMESPACE/NAME`; raises KubectlError if we may not see that.

    A dry run does not tell: the API server's allocator does not look there.
    """
    if by_object:
        try:
            reference = kubectl.get(f"/apis/networking.k8s.io/v1/ipaddresses/{vip}")["spec"]["parentRef"]
        except KubectlError as error:
            if error.reason == "NotFound":
                return None
            raise
        kind = "Service" if reference["resource"] == "services" else reference["resource"]
        return f"{kind} {reference['namespace']}/{reference['name']}"
    for item in kubectl.get("/api/v1/services")["items"]:
        if vip in map(canonical, item["spec"].get("clusterIPs") or ()):
            return f"Service {item['metadata']['namespace']}/{item['metadata']['name']}"
    return None


def _control_planes(kubectl: Kubectl) -> tuple[list[Endpoint], list[Finding]]:
    path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
    try:
        listing = kubectl.get(f"{path}?labelSelector=kubernetes.io%2Fservice-name%3Dkubernetes")
    except KubectlError as error:
        return [], [
            unknown("control-planes", f"the EndpointSlices of default/kubernetes cannot be read: {error}")
        ]
    found = list(ready_endpoints(slices_of_list(listing)))
    if not found:
        return [], [
            unknown("control-planes", "the EndpointSlices of default/kubernetes have no ready control plane")
        ]
    return found, []


def _certificates(kubectl: Kubectl, values: Values, endpoints: Sequence[Endpoint]) -> list[Finding]:
    """Ask each control plane itself, with the CA that Pods (and nodes) trust, else the kubeconfig's."""
    if not endpoints:
        return []
    published = _get_or_none(kubectl, "/api/v1/namespaces/default/configmaps/kube-root-ca.crt")
    ca = (published or {}).get("data", {}).get("ca.crt") or kubectl.ca_of_kubeconfig()
    try:
        prober = Prober(values.host, make_ssl_context(ca), _PROBE_TIMEOUT)
    except ValueError as error:
        return [
            unknown(
                "certificate", f"the control planes' certificates: the cluster's CA cannot be read ({error})"
            )
        ]
    return [judge_certificate(result, values.host) for result in probe_all(prober.probe, endpoints)]


def _server_dry_run(
    kubectl: Kubectl, documents: Sequence[Mapping[str, Any]], missing: str | None
) -> list[Finding]:
    """What else would make the API server refuse an object: validation, escalation of rights, quota, admission.

    `missing` is a namespace that does not exist yet, so that nothing in it could be asked about.
    """
    findings = []
    for document in documents:
        namespace = document["metadata"].get("namespace")
        what = f"{document['kind']} {f'{namespace}/' if namespace else ''}{document['metadata']['name']}"
        try:
            kubectl.apply_dry_run(document)
        except KubectlError as error:
            if document["kind"] == "RoleBinding" and error.reason == "NotFound":
                continue  # its Role, which a dry run does not leave behind
            code = ExitCode.NOT_PERMITTED if error.reason == "Forbidden" else ExitCode.CONFIG
            findings.append(
                failed("dry-run", f"{what}: the API server would refuse it: {error}", _ADVICE, code)
            )
        except NoControlPlane as error:
            if "no matches for kind" in str(error):  # kubectl's own words; the API server was not even asked
                advice = f"install what brings {document['apiVersion']} first, or leave this object out"
                message = f"{what}: this cluster has no {document['kind']}"
                findings.append(failed("dry-run", message, advice))
            else:
                findings.append(failed("dry-run", f"{what}: {error}", "try again", ExitCode.NO_CONTROL_PLANE))
    if missing is not None:
        return [
            *findings,
            unknown(
                "dry-run", f"objects in the namespace {missing}: the API server checks them once it exists"
            ),
        ]
    return findings or [ok("dry-run", "the API server would accept every object")]
