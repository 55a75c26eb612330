"""`apiha manifests --dry-run`: what the cluster's answers are taken to mean."""

from __future__ import annotations

from typing import Any

import pytest

from apiha.endpoint import Endpoint
from apiha.errors import ExitCode
from apiha.manifests.check import (
    Finding,
    Verdict,
    access_reviews,
    exit_code,
    failed,
    judge_access,
    judge_binding,
    judge_certificate,
    judge_control_planes,
    judge_service,
    judge_vip,
    ok,
    parse_error,
    unknown,
)
from apiha.manifests.render import checked_settings
from apiha.probe import Health, ProbeResult

CIDRS = ["10.96.0.0/16", "fd00:96::/112"]
OURS = "Service kube-system/apiserver"
SETTINGS = checked_settings("apiha:1", ["10.96.0.100"], "kube-system", "apiserver.cluster.local", 6443)
CONTROL_PLANE = Endpoint("10.0.0.11", 6443)


@pytest.mark.parametrize(
    ("vip", "cidrs", "holder", "verdict", "says"),
    [
        ("10.96.0.100", CIDRS, None, Verdict.OK, "free"),
        ("fd00:96::64", CIDRS, None, Verdict.OK, "free"),
        ("10.96.0.100", CIDRS, OURS, Verdict.OK, "is that of the Service kube-system/apiserver"),
        ("10.96.0.100", None, None, Verdict.OK, "the API server says"),
        ("10.97.0.100", CIDRS, None, Verdict.FAILED, "outside the Service CIDR 10.96.0.0/16, fd00:96::/112"),
        ("fd01::1", ["10.96.0.0/16"], None, Verdict.FAILED, "outside"),
        ("10.96.0.0", CIDRS, None, Verdict.FAILED, "first or last"),
        ("10.96.255.255", CIDRS, None, Verdict.FAILED, "first or last"),
        ("fd00:96::", CIDRS, None, Verdict.FAILED, "first or last"),
        ("fd00:96::ffff", CIDRS, None, Verdict.OK, "free"),
        (
            "10.96.0.1",
            CIDRS,
            "Service default/kubernetes",
            Verdict.FAILED,
            "taken by Service default/kubernetes",
        ),
        (
            "10.96.0.1",
            None,
            "Service default/kubernetes",
            Verdict.FAILED,
            "taken by Service default/kubernetes",
        ),
    ],
)
def test_vips(vip: str, cidrs: list[str] | None, holder: str | None, verdict: Verdict, says: str) -> None:
    """A VIP must be inside a Service CIDR, not at an IPv4 subnet's ends, and free or ours."""
    finding = judge_vip(vip, cidrs, holder, OURS)
    assert finding.verdict is verdict
    assert says in finding.text


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
    findings = judge_service({"spec": spec}, SETTINGS)
    assert [finding.verdict for finding in findings] == [Verdict.FAILED] * len(says)
    assert all(words in finding.text for words, finding in zip(says, findings, strict=True))


def test_no_service_yet_is_nothing_to_say() -> None:
    """The first installation finds none."""
    assert judge_service(None, SETTINGS) == []


def test_control_planes_need_the_port_and_the_family() -> None:
    """The VIP's port is the control planes' port, and a VIP of a family that they lack would lead nowhere."""
    assert judge_control_planes([CONTROL_PLANE], SETTINGS) == []
    (finding,) = judge_control_planes([Endpoint("10.0.0.11", 16443)], SETTINGS)
    assert "give --port 16443" in finding.text
    dual = checked_settings(
        "apiha:1", ["10.96.0.100", "fd00::1"], "kube-system", "apiserver.cluster.local", 6443
    )
    (finding,) = judge_control_planes([CONTROL_PLANE], dual)
    assert finding.text.startswith("VIP fd00::1: no control plane has an IPv6 address")


@pytest.mark.parametrize(
    ("health", "clock", "verdict"),
    [
        (Health.READY, False, Verdict.OK),
        (Health.ALIVE, False, Verdict.OK),
        (Health.NOT_READY, False, Verdict.OK),
        (Health.UNTRUSTED, False, Verdict.FAILED),
        (Health.UNTRUSTED, True, Verdict.FAILED),
        (Health.TIMEOUT, False, Verdict.UNKNOWN),
        (Health.REFUSED, False, Verdict.UNKNOWN),
        (Health.BROKEN, False, Verdict.UNKNOWN),
    ],
)
def test_certificates(health: Health, clock: bool, verdict: Verdict) -> None:
    """Genuine is proven, untrusted is disproven, and what cannot be reached says nothing of its certificate."""
    finding = judge_certificate(ProbeResult(CONTROL_PLANE, health, clock_problem=clock), "api.example")
    assert finding.verdict is verdict
    assert str(CONTROL_PLANE) in finding.text


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
    assert finding.verdict is Verdict.FAILED
    assert "exists for ServiceAccount other/apiserver-updater, User x, who would lose" in finding.text


def test_the_right_to_make_a_namespace_is_asked_for_in_none() -> None:
    """A Namespace is in no namespace; its lacking right is named without one."""
    asked = access_reviews([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "infra"}}])
    assert all("namespace" not in item["spec"]["resourceAttributes"] for item in asked)
    (finding,) = judge_access([{**item, "status": {}} for item in asked])
    assert "you may not get, create, patch namespaces: apply with" in finding.text


def test_lacking_rights_are_one_line_for_each_resource() -> None:
    """The verbs that lack are named together; no answer counts as no right."""
    (finding,) = judge_access([review("get", True), review("create", False), review("patch", None)])
    assert "you may not create, patch deployments.apps in kube-system" in finding.text
    assert finding.exit_code == ExitCode.NOT_PERMITTED
    assert [f.verdict for f in judge_access([review("get", True)])] == [Verdict.OK]


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
        ([ok("a"), unknown("b")], 0),
        ([ok("a"), failed("b")], ExitCode.CONFIG),
        ([failed("a", ExitCode.NOT_PERMITTED), failed("b", ExitCode.NOT_PERMITTED)], ExitCode.NOT_PERMITTED),
        ([failed("a"), failed("b", ExitCode.NOT_PERMITTED)], ExitCode.PROBLEMS),
    ],
)
def test_the_exit_code_is_that_of_what_failed(findings: list[Finding], code: int) -> None:
    """One kind of failure has its own code, several have that of `status`."""
    assert exit_code(findings) == code


def test_a_finding_is_one_line() -> None:
    """Whatever an API server puts into its message."""
    assert str(failed("a\n  b")) == "FAILED   a b"
