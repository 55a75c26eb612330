"""`apiha manifests --dry-run`: would these manifests work in this cluster?

The cluster is asked through kubectl, the program that will apply the manifests: with the same kubeconfig, context and
way to log in, exec plugins and proxies included. What the answers mean is decided by pure functions.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from apiha.config import read_text
from apiha.endpoint import Endpoint
from apiha.errors import ConfigError, ExitCode, NoControlPlane
from apiha.manifests.render import SERVICE, Settings, family_of
from apiha.probe import Health, Prober, ProbeResult, probe_all
from apiha.slices import ready_endpoints, slices_of_list
from apiha.trust import make_ssl_context

_PROBE_TIMEOUT = 3.0  # seconds
_KUBECTL_TIMEOUT = 60.0  # seconds for one run: a login plugin may ask the user something
# kubectl's `StandardErrorMessage`: what the API server answered, by the reason of its Status.
_SERVER_ERROR = re.compile(
    r"Error from server \((?P<reason>\w+)\): (?:error when \w+ \"\S+\": )?(?P<text>.*)", re.DOTALL
)
# What kubectl says of a file that is no kubeconfig, or that lacks what it refers to.
_NO_KUBECONFIG = re.compile(
    r"error loading config file|context \"[^\"]*\" does not exist|invalid configuration: |Error in configuration: "
)
_INVALID = re.compile(r"The (?P<kind>\S+) \"(?P<name>[^\"]*)\" is invalid: (?P<text>.*)", re.DOTALL)


class Verdict(str, Enum):
    """What became of a check."""

    OK = "ok"
    FAILED = "FAILED"
    UNKNOWN = "UNKNOWN"  # it could not be made from here; nothing speaks against


@dataclass(frozen=True)
class Finding:
    """One check: a line that says what is where, and what to do; `exit_code` is what it means for the process."""

    verdict: Verdict
    text: str
    exit_code: int = ExitCode.OK

    def __str__(self) -> str:
        return f"{self.verdict.value:<8} {' '.join(self.text.split())}"


def ok(text: str) -> Finding:
    """A check that went well."""
    return Finding(Verdict.OK, text)


def failed(text: str, exit_code: int = ExitCode.CONFIG) -> Finding:
    """A check that found what would not work."""
    return Finding(Verdict.FAILED, text, exit_code)


def unknown(text: str) -> Finding:
    """A check that could not be made."""
    return Finding(Verdict.UNKNOWN, text)


def exit_code(findings: Iterable[Finding]) -> int:
    """0 if no check failed; the failures' code if all have the same; else 9, several problems."""
    codes = {finding.exit_code for finding in findings if finding.verdict is Verdict.FAILED}
    return ExitCode.PROBLEMS if len(codes) > 1 else next(iter(codes), ExitCode.OK)


# ------------------------------------------------------------------------------------------------------ kubectl


class ApiError(Exception):
    """The API server refused; `reason` is that of its Status object (`NotFound`, `Forbidden`, `Invalid`, ...)."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def parse_error(stderr: str) -> ApiError | None:
    """What kubectl says on stderr, if it is an answer of the API server."""
    text = stderr.strip()
    if match := _SERVER_ERROR.search(text):
        return ApiError(match["reason"], _one_line(match["text"]))
    if match := _INVALID.search(text):
        return ApiError("Invalid", _one_line(match["text"]))
    return None


class Kubectl:
    """The cluster, asked through kubectl."""

    def __init__(self, kubeconfig: Path | None, program: str = "kubectl") -> None:
        """`kubeconfig` None leaves the choice to kubectl: $KUBECONFIG, ~/.kube/config, the Pod's own.

        Raises ConfigError for a file that cannot be read.
        """
        if kubeconfig is not None:
            read_text(kubeconfig, "a kubeconfig")
        self._command = [program, *([f"--kubeconfig={kubeconfig}"] if kubeconfig is not None else [])]

    def run(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """One run; raises ConfigError where kubectl is missing, NoControlPlane where it hangs."""
        try:
            return subprocess.run(
                [*self._command, "--request-timeout=15s", *arguments],
                input=stdin,
                capture_output=True,
                text=True,
                timeout=_KUBECTL_TIMEOUT,
                check=False,
            )
        except FileNotFoundError:
            raise ConfigError(
                "--dry-run: kubectl is not in PATH; it asks the cluster, with the kubeconfig that will be used to apply"
            ) from None
        except OSError as error:
            raise ConfigError(f"--dry-run: cannot run kubectl: {error.strerror}") from None
        except subprocess.TimeoutExpired:
            raise NoControlPlane(f"--dry-run: kubectl has no answer after {_KUBECTL_TIMEOUT:g} s") from None

    def get(self, path: str) -> Any:
        """GET a path; raises ApiError, NoControlPlane where none answers, ConfigError for a bad kubeconfig."""
        return json.loads(self._checked(self.run("get", "--raw", path)))

    def create(self, documents: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """POST objects and return what came of them; raises like `get`."""
        listing = {"apiVersion": "v1", "kind": "List", "items": list(documents)}
        answer = self._checked(self.run("create", "-f", "-", "-o", "yaml", stdin=json.dumps(listing)))
        return list(yaml.safe_load_all(answer))

    def apply_dry_run(self, document: Mapping[str, Any]) -> None:
        """What `kubectl apply` would do, as far as the API server says without doing it; raises like `get`."""
        self._checked(self.run("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(document)))

    def ca_of_kubeconfig(self) -> str | None:
        """The CA (PEM) that the kubeconfig's current context trusts, if it has one."""
        text = self._checked(self.run("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
        clusters = json.loads(text).get("clusters") or [{}]
        data = clusters[0].get("cluster", {}).get("certificate-authority-data")
        return base64.b64decode(data).decode() if data else None

    @staticmethod
    def _checked(process: subprocess.CompletedProcess[str]) -> str:
        if process.returncode == 0:
            return process.stdout
        if error := parse_error(process.stderr):
            raise error
        if _NO_KUBECONFIG.search(process.stderr):
            raise ConfigError(f"--dry-run: kubectl: {_one_line(process.stderr)}")
        raise NoControlPlane(
            f"--dry-run: kubectl: {_one_line(process.stderr) or f'exit code {process.returncode}'}"
        )


# ---------------------------------------------------------------------------------------------------- decisions


def judge_vip(vip: str, cidrs: Sequence[str] | None, holder: str | None, service: str) -> Finding:
    """Whether the VIP is inside one of the Service CIDRs (None: not known) and free, or held by our own Service."""
    address = ipaddress.ip_address(vip)
    if cidrs is not None:
        networks = [ipaddress.ip_network(cidr) for cidr in cidrs]
        network = next((n for n in networks if n.version == address.version and address in n), None)
        if network is None:
            return failed(
                f"VIP {vip} is outside the Service CIDR {', '.join(cidrs)}: give --vip a free address inside it"
            )
        # kube-apiserver hands out neither: the subnet's own address, and IPv4's broadcast address.
        if address == network.network_address or (
            address.version == 4 and address == network.broadcast_address
        ):
            return failed(
                f"VIP {vip} is the first or last address of {network}, which no Service gets: take another"
            )
    if holder == service:
        return ok(f"VIP {vip} is that of the {service}")
    if holder is not None:
        return failed(f"VIP {vip} is taken by {holder}: give --vip a free address, or remove that first")
    inside = (
        "the API server says whether it is in the Service CIDR"
        if cidrs is None
        else f"inside {', '.join(cidrs)}"
    )
    return ok(f"VIP {vip} is free, {inside}")


def judge_service(live: Mapping[str, Any] | None, settings: Settings) -> list[Finding]:
    """Whether a Service that is there already can become ours: clusterIPs cannot be changed."""
    if live is None:
        return []
    name, spec = f"Service {settings.namespace}/{SERVICE}", live.get("spec", {})
    has = spec.get("clusterIPs") or [spec.get("clusterIP")]
    findings = []
    if [_canonical(address) for address in has] != list(settings.vips):
        findings.append(
            failed(
                f"{name} exists with clusterIP {', '.join(map(str, has))}, which cannot be changed to "
                f"{', '.join(settings.vips)}: delete it first, or give that as --vip"
            )
        )
    if spec.get("selector"):
        findings.append(
            failed(
                f"{name} exists with a selector, so Kubernetes writes slices of its own for it: delete it first"
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
            f"RoleBinding {metadata['namespace']}/{metadata['name']} exists for {', '.join(others)}, who would lose "
            "these rights: rename or delete it first"
        )
    ]


def _subject(subject: Mapping[str, Any]) -> str:
    namespace = f"{subject['namespace']}/" if subject.get("namespace") else ""
    return f"{subject['kind']} {namespace}{subject['name']}"


def judge_control_planes(endpoints: Sequence[Endpoint], settings: Settings) -> list[Finding]:
    """Whether the control planes can stand behind these VIPs, and beside them in a hosts file."""
    findings = []
    have = {family_of(endpoint.address) for endpoint in endpoints}
    for vip in settings.vips:
        if family_of(vip) not in have:
            findings.append(
                failed(
                    f"VIP {vip}: no control plane has an {family_of(vip)} address in the Service "
                    f"default/kubernetes, so nothing would answer there: "
                    f"give --vip an {' or '.join(sorted(have))} address"
                )
            )
    ports = sorted({endpoint.port for endpoint in endpoints})
    if ports != [settings.port]:
        listed = ", ".join(map(str, ports))
        findings.append(
            failed(
                f"the control planes listen on port {listed}, the VIP would on {settings.port}, and a kubeconfig "
                f"has one port for both: give --port {ports[0]}"
            )
        )
    return findings


def judge_certificate(result: ProbeResult, host: str) -> Finding:
    """Whether a control plane proved itself for the host's name."""
    where = f"control plane {result.endpoint}"
    if result.health.genuine:
        return ok(f"{where}: its certificate carries {host}")
    if result.clock_problem:
        return failed(
            f"{where}: {result.detail}: renew it (`kubeadm certs renew apiserver`), or set the clock right"
        )
    if result.health is Health.UNTRUSTED:
        return failed(
            f"{where}: {result.detail}: add {host} to apiServer.certSANs and make its certificate anew "
            "(`kubeadm init phase certs apiserver`), or give --host a name that it carries"
        )
    return unknown(
        f"{where}: {result.detail}: run this where it can be reached to see whether its certificate carries {host}"
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
                "resource": f"{document['kind'].lower()}s",
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
        return [ok("you may get, create and patch all that is to be applied")]
    return [
        failed(
            f"you may not {', '.join(verbs)} {what}: apply with a kubeconfig that may, such as kubeadm's admin.conf",
            ExitCode.NOT_PERMITTED,
        )
        for what, verbs in lacking.items()
    ]


def _canonical(address: object) -> str:
    try:
        return str(ipaddress.ip_address(str(address)))
    except ValueError:
        return str(address)  # `None`: a headless Service


def _one_line(text: str) -> str:
    return " ".join(text.split())[:400]


# ------------------------------------------------------------------------------------------------------ the checks


def check(settings: Settings, manifests: str, kubectl: Kubectl) -> list[Finding]:
    """Every check, in an order that reads well; raises NoControlPlane if no API server answers at all."""
    documents = [document for document in yaml.safe_load_all(manifests) if document]
    version = kubectl.get("/version")
    findings = [ok(f"the API server answers: Kubernetes {version.get('gitVersion', 'of unknown version')}")]
    exists, namespace_findings = _namespace(kubectl, settings)
    findings += namespace_findings
    vip_findings = _vips(kubectl, settings)
    findings += vip_findings
    vips_fine = all(finding.verdict is not Verdict.FAILED for finding in vip_findings)
    endpoints, trouble = _control_planes(kubectl)
    findings += trouble or judge_control_planes(endpoints, settings)
    findings += _certificates(kubectl, settings, endpoints)
    access = judge_access(kubectl.create(access_reviews(documents)))
    findings += access
    for document in documents:
        if document["kind"] == "RoleBinding":
            findings += judge_binding(_get_or_none(kubectl, _path_of_binding(document)), document)
    if access[0].verdict is Verdict.OK and (exists or settings.create_namespace):
        # The Service's address has been judged in better words than the API server's.
        rest = [document for document in documents if vips_fine or document["kind"] != "Service"]
        if not exists:  # the API server would refuse what goes into it
            rest = [item for item in rest if item["metadata"].get("namespace") != settings.namespace]
        findings += _server_dry_run(kubectl, rest, settings.namespace if not exists else None)
    return findings


def _path_of_binding(document: Mapping[str, Any]) -> str:
    metadata = document["metadata"]
    return (
        f"/apis/{document['apiVersion']}/namespaces/{metadata['namespace']}/rolebindings/{metadata['name']}"
    )


def _namespace(kubectl: Kubectl, settings: Settings) -> tuple[bool, list[Finding]]:
    """Whether the namespace exists, as far as it is to be seen, and what is to be said about it."""
    try:
        kubectl.get(f"/api/v1/namespaces/{settings.namespace}")
    except ApiError as error:
        if error.reason == "NotFound":
            namespace = settings.namespace
            if settings.create_namespace:
                return False, [ok(f"namespace {namespace} does not exist yet, and is created")]
            return False, [
                failed(
                    f"namespace {namespace} does not exist: `kubectl create namespace {namespace}`, "
                    "or give --create-namespace"
                )
            ]
        return True, [unknown(f"namespace {settings.namespace}: {error}")]
    return True, []


def _vips(kubectl: Kubectl, settings: Settings) -> list[Finding]:
    service = f"Service {settings.namespace}/{SERVICE}"
    live = _get_or_none(kubectl, f"/api/v1/namespaces/{settings.namespace}/services/{SERVICE}")
    cidrs = _service_cidrs(kubectl)
    findings = []
    for vip in settings.vips:
        try:
            holder = _holder(kubectl, vip, by_object=cidrs is not None)
        except ApiError as error:
            findings.append(unknown(f"VIP {vip}: whether it is free: {error}"))
            continue
        findings.append(judge_vip(vip, cidrs, holder, service))
    return findings + judge_service(live, settings)


def _get_or_none(kubectl: Kubectl, path: str) -> Any:
    """The object; None where it is absent or hidden from us (what we may not see is found by the review of access)."""
    try:
        return kubectl.get(path)
    except ApiError:
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
    """Who has this clusterIP, `Service NAMESPACE/NAME`; raises ApiError if it is not to be seen.

    The API server does not tell in a dry run: its allocator takes an address without looking then.
    """
    if by_object:
        try:
            reference = kubectl.get(f"/apis/networking.k8s.io/v1/ipaddresses/{vip}")["spec"]["parentRef"]
        except ApiError as error:
            if error.reason == "NotFound":
                return None
            raise
        kind = "Service" if reference["resource"] == "services" else reference["resource"]
        return f"{kind} {reference['namespace']}/{reference['name']}"
    for item in kubectl.get("/api/v1/services")["items"]:
        if vip in map(_canonical, item["spec"].get("clusterIPs") or ()):
            return f"Service {item['metadata']['namespace']}/{item['metadata']['name']}"
    return None


def _control_planes(kubectl: Kubectl) -> tuple[list[Endpoint], list[Finding]]:
    path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
    try:
        listing = kubectl.get(f"{path}?labelSelector=kubernetes.io%2Fservice-name%3Dkubernetes")
    except ApiError as error:
        return [], [unknown(f"the EndpointSlices of default/kubernetes cannot be read: {error}")]
    found = list(ready_endpoints(slices_of_list(listing)))
    if not found:
        return [], [unknown("the EndpointSlices of default/kubernetes name no ready control plane")]
    return found, []


def _certificates(kubectl: Kubectl, settings: Settings, endpoints: Sequence[Endpoint]) -> list[Finding]:
    """Ask each control plane itself, with the CA that Pods (and nodes) trust, else the kubeconfig's."""
    if not endpoints:
        return []
    published = _get_or_none(kubectl, "/api/v1/namespaces/default/configmaps/kube-root-ca.crt")
    ca = (published or {}).get("data", {}).get("ca.crt") or kubectl.ca_of_kubeconfig()
    try:
        prober = Prober(settings.host, make_ssl_context(ca), _PROBE_TIMEOUT)
    except ValueError as error:
        return [unknown(f"the control planes' certificates: the cluster's CA is not to be had ({error})")]
    return [judge_certificate(result, settings.host) for result in probe_all(prober.probe, endpoints)]


def _server_dry_run(
    kubectl: Kubectl, documents: Sequence[Mapping[str, Any]], missing: str | None
) -> list[Finding]:
    """What else the API server has against an object: validation, escalation of rights, quota, admission webhooks.

    `missing` is a namespace that does not exist yet, so that nothing in it could be asked about.
    """
    findings = []
    for document in documents:
        namespace = document["metadata"].get("namespace")
        what = f"{document['kind']} {f'{namespace}/' if namespace else ''}{document['metadata']['name']}"
        try:
            kubectl.apply_dry_run(document)
        except ApiError as error:
            if document["kind"] == "RoleBinding" and error.reason == "NotFound":
                continue  # its Role, which a dry run does not leave behind
            code = ExitCode.NOT_PERMITTED if error.reason == "Forbidden" else ExitCode.CONFIG
            findings.append(failed(f"{what}: the API server would refuse it: {error}", code))
        except NoControlPlane as error:
            findings.append(failed(f"{what}: {error}", ExitCode.NO_CONTROL_PLANE))
    if missing is not None:
        return [
            *findings,
            unknown(f"what goes into the namespace {missing}: the API server judges it once it exists"),
        ]
    return findings or [ok("the API server would take every object as it is")]
