"""`apiha manifests --dry-run`: what the cluster's answers are taken to mean."""

from __future__ import annotations

from typing import Any

import pytest

from apiha.endpoint import Endpoint
from apiha.errors import ExitCode
from apiha.findings import Finding, Severity, exit_code
from apiha.kubectl import parse_error
from apiha.manifests.judge import (
    access_reviews,
    failed,
    judge_access,
    judge_binding,
    judge_certificate,
    judge_control_planes,
    judge_service,
    judge_version,
    judge_vip,
    ok,
    text_of,
    unknown,
)
from apiha.manifests.render import checked_values
from apiha.probe import Health, ProbeResult

CIDRS = ["10.96.0.0/16", "fd00:96::/112"]
OURS = "Service kube-system/apiserver"
VALUES = checked_values("apiha:1", ["10.96.0.100"], "kube-system", "apiserver.cluster.local", 6443)
CONTROL_PLANE = Endpoint("10.0.0.11", 6443)


@pytest.mark.parametrize(
    ("version", "severity", "says"),
    [
        ({"major": "1", "minor": "36", "gitVersion": "v1.36.2"}, Severity.OK, "Kubernetes v1.36.2"),
        ({"major": "1", "minor": "30", "gitVersion": "v1.30.0"}, Severity.OK, "Kubernetes v1.30.0"),
        ({"major": "2", "minor": "0", "gitVersion": "v2.0.0"}, Severity.OK, "Kubernetes v2.0.0"),
        (
            {"major": "1", "minor": "29+", "gitVersion": "v1.29.1-eks"},
            Severity.ERROR,
            "v1.29.1-eks, which has no",
        ),
        ({}, Severity.OK, "of unknown version"),
    ],
)
def test_a_kubernetes_that_is_too_old(version: dict[str, str], severity: Severity, says: str) -> None:
    """The manifests need what is in Kubernetes since 1.30; what cannot be told is no error."""
    finding = judge_version(version)
    assert finding.severity is severity
    assert says in finding.message


@pytest.mark.parametrize(
    ("vip", "cidrs", "holder", "severity", "says"),
    [
        ("10.96.0.100", CIDRS, None, Severity.OK, "free"),
        ("fd00:96::64", CIDRS, None, Severity.OK, "free"),
        ("10.96.0.100", CIDRS, OURS, Severity.OK, "already belongs to Service kube-system/apiserver"),
        ("10.96.0.100", None, None, Severity.OK, "the API server will say"),
        ("10.97.0.100", CIDRS, None, Severity.ERROR, "outside the Service CIDR 10.96.0.0/16, fd00:96::/112"),
        ("fd01::1", ["10.96.0.0/16"], None, Severity.ERROR, "outside"),
        ("10.96.0.0", CIDRS, None, Severity.ERROR, "first or last"),
        ("10.96.255.255", CIDRS, None, Severity.ERROR, "first or last"),
        ("fd00:96::", CIDRS, None, Severity.ERROR, "first or last"),
        ("fd00:96::ffff", CIDRS, None, Severity.OK, "free"),
        (
            "10.96.0.1",
            CIDRS,
            "Service default/kubernetes",
            Severity.ERROR,
            "taken by Service default/kubernetes",
        ),
        (
            "10.96.0.1",
            None,
            "Service default/kubernetes",
            Severity.ERROR,
            "taken by Service default/kubernetes",
        ),
    ],
)
def test_vips(vip: str, cidrs: list[str] | None, holder: str | None, severity: Severity, says: str) -> None:
    """A VIP must be inside a Service CIDR, not at an IPv4 subnet's ends, and free or ours."""
    finding = judge_vip(vip, cidrs, holder, OURS)
    assert finding.severity is severity
    assert says in finding.message


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"clusterIPs": ["10.96.0.100"]}, []),
        ({"clusterIP": "10.96.0.100"}, []),
        ({"clusterIPs": ["10.96.0.7"]}, ["cannot be changed"]),
        ({"clusterIP": "None", "clusterIPs": ["None"]}, ["clusterIP None"]),
        ({"clusterIPs": ["10.96.0.100"], "selector": {"a": "b"}}, ["selector"]),
        ({"clusterIPs": ["10.96.0.7"], "selector": {"a": "b"}}, ["cannot be changed", "selector"]),
    ],
)
def test_a_service_that_is_there_already(spec: dict[str, Any], says: list[str]) -> None:
    """It must have the wished clusterIPs, and no selector."""
    findings = judge_service({"spec": spec}, VALUES)
    assert [finding.severity for finding in findings] == [Severity.ERROR] * len(says)
    assert all(words in finding.message for words, finding in zip(says, findings, strict=True))


def test_no_service_yet_is_nothing_to_say() -> None:
    """The first installation finds none."""
    assert judge_service(None, VALUES) == []


def test_control_planes_need_the_port_and_the_family() -> None:
    """The VIP's port is the control planes' port, and a VIP of a family that they lack would lead nowhere."""
    assert judge_control_planes([CONTROL_PLANE], VALUES) == []
    (finding,) = judge_control_planes([Endpoint("10.0.0.11", 16443)], VALUES)
    assert "give --port 16443" in finding.advice
    dual = checked_values(
        "apiha:1", ["10.96.0.100", "fd00::1"], "kube-system", "apiserver.cluster.local", 6443
    )
    (finding,) = judge_control_planes([CONTROL_PLANE], dual)
    assert finding.message.startswith("VIP fd00::1: no control plane has an IPv6 address")


@pytest.mark.parametrize(
    ("health", "clock", "severity"),
    [
        (Health.READY, False, Severity.OK),
        (Health.ALIVE, False, Severity.OK),
        (Health.NOT_READY, False, Severity.OK),
        (Health.UNTRUSTED, False, Severity.ERROR),
        (Health.UNTRUSTED, True, Severity.ERROR),
        (Health.TIMEOUT, False, Severity.UNKNOWN),
        (Health.REFUSED, False, Severity.UNKNOWN),
        (Health.BROKEN, False, Severity.UNKNOWN),
    ],
)
def test_certificates(health: Health, clock: bool, severity: Severity) -> None:
    """Genuine is proven, untrusted is disproven, and what cannot be reached says nothing of its certificate."""
    finding = judge_certificate(ProbeResult(CONTROL_PLANE, health, clock_problem=clock), "api.example")
    assert finding.severity is severity
    assert str(CONTROL_PLANE) in finding.message


def review(verb: str, allowed: bool | None) -> dict[str, Any]:
    attributes = {"group": "apps", "resource": "deployments", "namespace": "kube-system", "verb": verb}
    return {
        "spec": {"resourceAttributes": attributes},
        "status": {} if allowed is None else {"allowed": allowed},
    }


BINDING = {
    "metadata": {"namespace": "default", "name": "apiserver-updater-source-infra"},
    "subjects": [{"kind": "ServiceAccount", "namespace": "infra", "name": "apiserver-updater"}],
}


@pytest.mark.parametrize(
    "live",
    [None, {}, {"subjects": None}, {"subjects": BINDING["subjects"]}],
)
def test_a_binding_that_is_ours_or_nobodys(live: dict[str, Any] | None) -> None:
    """Nothing to say where nobody would lose a right."""
    assert judge_binding(live, BINDING) == []


def test_a_binding_of_somebody_else() -> None:
    """Applying would take the rights of those who have them."""
    others = [
        {"kind": "ServiceAccount", "namespace": "other", "name": "apiserver-updater"},
        {"kind": "User", "name": "x"},
    ]
    (finding,) = judge_binding({"subjects": others}, BINDING)
    assert finding.severity is Severity.ERROR
    assert "exists for ServiceAccount other/apiserver-updater, User x, who would lose" in finding.message


def test_the_right_to_make_a_namespace_is_asked_for_in_none() -> None:
    """A Namespace is in no namespace; its lacking right is named without one."""
    asked = access_reviews([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "infra"}}])
    assert all("namespace" not in item["spec"]["resourceAttributes"] for item in asked)
    (finding,) = judge_access([{**item, "status": {}} for item in asked])
    assert "you may not get, create, patch namespaces" in finding.message


def test_lacking_rights_are_one_line_for_each_resource() -> None:
    """The verbs that lack are named together; no answer counts as no right."""
    (finding,) = judge_access([review("get", True), review("create", False), review("patch", None)])
    assert "you may not create, patch deployments.apps in kube-system" in finding.message
    assert finding.exit_code == ExitCode.NOT_PERMITTED
    assert [f.severity for f in judge_access([review("get", True)])] == [Severity.OK]


def test_each_right_is_asked_for_once() -> None:
    """Two objects of a kind share the right to create, which cannot name them."""
    objects = [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "kube-system"}}
        for name in ("a", "b")
    ]
    asked = [item["spec"]["resourceAttributes"] for item in access_reviews(objects)]
    assert [(a["verb"], a.get("name")) for a in asked] == [
        ("get", "a"),
        ("create", None),
        ("patch", "a"),
        ("get", "b"),
        ("patch", "b"),
    ]


@pytest.mark.parametrize(
    ("stderr", "reason", "text"),
    [
        ('Error from server (NotFound): namespaces "x" not found\n', "NotFound", 'namespaces "x" not found'),
        ("Error from server (Forbidden): a\nb", "Forbidden", "a b"),
        ('The Service "apiserver" is invalid: spec.clusterIPs: no', "Invalid", "spec.clusterIPs: no"),
        ('Error from server (Forbidden): error when creating "STDIN": no\n', "Forbidden", "no"),
        ("Warning: old\nError from server (Conflict): no", "Conflict", "no"),
        (
            "error: You must be logged in to the server (Unauthorized)\n",
            "Unauthorized",
            "the API server does not accept the kubeconfig's credentials (Unauthorized): they have expired, or are of "
            "another cluster",
        ),
    ],
)
def test_answers_of_the_api_server_are_told_from_kubectls_words(stderr: str, reason: str, text: str) -> None:
    """The reason of the Status object, and its message as one line."""
    error = parse_error(stderr)
    assert error is not None
    assert (error.reason, str(error)) == (reason, text)


@pytest.mark.parametrize(
    "stderr",
    [
        "",
        'error: context "x" does not exist',
        "The connection to the server 127.0.0.1:1 was refused - did you specify the right host or port?",
        "Unable to connect to the server: dial tcp: lookup x: no such host",
    ],
)
def test_trouble_of_kubectl_itself_is_no_answer(stderr: str) -> None:
    """Where no API server answered, nothing is taken for its answer."""
    assert parse_error(stderr) is None


@pytest.mark.parametrize(
    ("findings", "code"),
    [
        ([], 0),
        ([ok("vip", "a"), unknown("vip", "b")], 0),
        ([ok("vip", "a"), failed("vip", "b", "c")], ExitCode.CONFIG),
        (
            [
                failed("vip", "a", "b", ExitCode.NOT_PERMITTED),
                failed("vip", "b", "c", ExitCode.NOT_PERMITTED),
            ],
            ExitCode.NOT_PERMITTED,
        ),
        ([failed("vip", "a", "b"), failed("vip", "b", "c", ExitCode.NOT_PERMITTED)], ExitCode.PROBLEMS),
    ],
)
def test_the_exit_code_is_that_of_what_failed(findings: list[Finding], code: int) -> None:
    """One kind of failure has its own code, several have that of `status`."""
    assert exit_code(findings) == code


def test_a_finding_is_one_line_with_advice_and_link_below_it() -> None:
    """Whatever an API server puts into its message; what went well needs neither."""
    link = "see https://github.com/apiha/apiha/blob/main/docs/cluster.md#before-you-start"
    assert text_of(failed("vip", "a\n  b", "do c")) == f"FAILED   a b\n         -> do c\n         {link}"
    assert text_of(unknown("vip", "a")) == f"UNKNOWN  a\n         {link}"
    assert text_of(ok("vip", "a")) == "ok       a"
