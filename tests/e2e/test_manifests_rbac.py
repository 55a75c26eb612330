"""The updater with the ServiceAccount and the Roles of `apiha manifests`: they are enough, and none is too much."""

from __future__ import annotations

import copy
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from apiha.manifests.render import checked_values, one_stream, render
from tests.support.kube import Cluster, require_assets
from tests.support.updater import LEASES, SLICES, Api, Space, Updater, wait_for

pytest.importorskip("prometheus_client", reason="needs the updater's packages: pip install '.[updater]'")

QUIET = ("--no-health-check",)  # the addresses here are RFC 5737's, and answer nowhere
THREE = ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
VIPS = ["10.96.0.100", "fd00:96::64"]
ACCOUNT = "apiserver-updater"
SOURCE = f"{ACCOUNT}-source"
Document = dict[str, Any]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One dual-stack API server that leaves the `kubernetes` endpoints to the tests."""
    require_assets("kubectl")
    flags = ["--endpoint-reconciler-type=none", "--service-cluster-ip-range=10.96.0.0/16,fd00:96::/112"]
    with Cluster(n=1, netns=False, apiserver_args=flags) as running:
        yield running


@pytest.fixture
def space(cluster: Cluster) -> Iterator[Space]:
    """A fresh namespace, and nothing of apiha's in it or in `default`."""
    api = Api(cluster)
    made = Space(cluster, api)
    yield made
    text = "---\n".join(json.dumps(document) + "\n" for document in manifests(made.namespace))
    cluster.kubectl("delete", "--ignore-not-found", "-f", "-", stdin=text)
    api.close()


def manifests(namespace: str) -> list[Document]:
    """Everything but the Deployment, which the test stands in for."""
    settings = checked_values("apiha:1", VIPS, namespace, "apiserver.cluster.local", 6443)
    documents = yaml.safe_load_all(one_stream(render(settings).values()))
    return [document for document in documents if document["kind"] != "Deployment"]


def right_of(role: str, group: str, resource: str, verb: str) -> str:
    return f"{role} may {verb} {resource}{f'.{group}' if group else ''}"


def role_of(document: Document) -> str:
    """The name of a Role without the namespace of its installation."""
    name: str = document["metadata"]["name"]
    return SOURCE if name.startswith(SOURCE) else name


def rights(documents: list[Document]) -> set[str]:
    """Every right that the updater's Roles give, a text for each."""
    return {
        right_of(role_of(role), group, resource, verb)
        for role in documents
        if role["kind"] == "Role" and role["metadata"]["name"].startswith(ACCOUNT)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def without(documents: list[Document], right: str) -> list[Document]:
    """The same manifests, less one right."""
    reduced = copy.deepcopy(documents)
    for role in [document for document in reduced if document["kind"] == "Role"]:
        for rule in role["rules"]:
            (group,), (resource,), name = rule["apiGroups"], rule["resources"], role_of(role)
            rule["verbs"] = [verb for verb in rule["verbs"] if right_of(name, group, resource, verb) != right]
        role["rules"] = [rule for rule in role["rules"] if rule["verbs"]]
    assert rights(documents) - rights(reduced) == {right}
    return reduced


def apply(space: Space, documents: list[Document]) -> None:
    text = "---\n".join(json.dumps(document) + "\n" for document in documents)
    answer = space.cluster.kubectl("apply", "-f", "-", stdin=text)
    assert answer.returncode == 0, answer.stderr
    wanted = rights(documents)
    wait_for("the API server's authorizer knows the Roles", lambda: granted(space) == wanted)


def granted(space: Space) -> set[str]:
    """What the API server says that the account may do, of all the rights that there are."""
    found = set()
    for role in [document for document in manifests(space.namespace) if document["kind"] == "Role"]:
        if not role["metadata"]["name"].startswith(ACCOUNT):
            continue
        for rule in role["rules"]:
            for verb in rule["verbs"]:
                (group,), (resource,) = rule["apiGroups"], rule["resources"]
                attributes = {"group": group, "resource": resource, "verb": verb}
                attributes["namespace"] = role["metadata"]["namespace"]
                if "resourceNames" in rule:
                    attributes["name"] = rule["resourceNames"][0]
                body = {
                    "apiVersion": "authorization.k8s.io/v1",
                    "kind": "SubjectAccessReview",
                    "spec": {
                        "user": f"system:serviceaccount:{space.namespace}:{ACCOUNT}",
                        "resourceAttributes": attributes,
                    },
                }
                answer = space.api.ok("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", body)
                if answer["status"]["allowed"]:
                    found.add(right_of(role_of(role), group, resource, verb))
    return found


def account(space: Space) -> Path:
    """A kubeconfig with nothing but a token of the updater's ServiceAccount."""
    return space.cluster.service_account_kubeconfig(space.namespace, ACCOUNT)


def restarts(updater: Updater, resource: str) -> float:
    return updater.metric("watch_restarts_total", resource=resource, reason="failed")


# ------------------------------------------------------------------------------------------------ enough


def test_the_roles_are_enough(space: Space) -> None:
    """With nothing but these Roles the updater does all its work, and is never refused."""
    apply(space, manifests(space.namespace))
    slices = f"{SLICES}/{space.namespace}/endpointslices"
    with Updater(space.cluster, space.namespace, *QUIET, kubeconfig=account(space)) as updater:
        space.wait_mirrored(
            THREE
        )  # into the slice that the manifests brought, with the Lease that they brought
        wait_for("an Event", space.events)
        wait_for("it is ready", lambda: updater.get("/readyz").status_code == 200)
        space.api.ok("DELETE", f"{slices}/apiserver")
        space.wait_mirrored(THREE)
        space.api.ok("PATCH", f"{slices}/apiserver", {"endpoints": []})
        space.wait_mirrored(THREE)
        space.set_source(["2001:db8::1"], name="kubernetes-6", family="IPv6")
        space.wait_mirrored(["2001:db8::1"], "apiserver-ipv6")
        space.api.ok("DELETE", f"{SLICES}/default/endpointslices/kubernetes-6")
        space.wait_mirrored([], "apiserver-ipv6")
        space.api.ok("DELETE", f"{LEASES}/{space.namespace}/leases/apiserver-updater")
        wait_for(
            "a new Lease", lambda: space.api("GET", f"{LEASES}/{space.namespace}/leases/{ACCOUNT}")[0] == 200
        )
        updater.wait_leading()
        space.delete_service()
        updater.wait_said("does not exist; its EndpointSlices are kept")
        assert updater.terminate() == 0
        assert updater.said("released the lease")
        assert not updater.said("not permitted")


def test_what_is_deleted_stays_deleted_beside_a_live_updater(space: Space) -> None:
    """`kubectl delete` takes the rights first: an updater that still runs makes neither slice nor Lease anew."""
    documents = manifests(space.namespace)
    apply(space, documents)
    with Updater(space.cluster, space.namespace, *QUIET, kubeconfig=account(space)) as updater:
        space.wait_mirrored(THREE)
        updater.wait_leading()
        text = "---\n".join(json.dumps(document) + "\n" for document in documents)
        answer = space.cluster.kubectl("delete", "-f", "-", stdin=text)
        assert answer.returncode == 0, answer.stderr
        space.set_source(THREE[:2])  # something to write
        updater.wait_said("not permitted")
        until = time.monotonic() + 5  # more than two of its retry periods
        while time.monotonic() < until:
            assert space.objects(SLICES, space.namespace) == []
            assert space.objects(LEASES, space.namespace, kind="leases") == []
            assert updater.process.poll() is None
            time.sleep(0.1)


def test_the_account_may_touch_nothing_else(space: Space) -> None:
    """Other slices, Services, Leases, Secrets, and slices of other namespaces are out of its reach."""
    apply(space, manifests(space.namespace))
    user = f"system:serviceaccount:{space.namespace}:{ACCOUNT}"
    own, group = space.namespace, "discovery.k8s.io"
    for verb, resource, api_group, namespace, name in (
        ("patch", "endpointslices", group, own, "another"),
        ("update", "endpointslices", group, own, "apiserver"),
        ("delete", "endpointslices", group, own, "apiserver"),
        ("patch", "endpointslices", group, "default", "kubernetes"),
        ("create", "endpointslices", group, "default", ""),
        ("list", "endpointslices", group, "kube-public", ""),
        ("patch", "services", "", own, "apiserver"),
        ("list", "services", "", own, ""),
        ("update", "leases", "coordination.k8s.io", own, "another"),
        ("patch", "leases", "coordination.k8s.io", own, "another"),
        ("create", "leases", "coordination.k8s.io", own, "another"),
        ("get", "secrets", "", own, "any"),
        ("list", "pods", "", own, ""),
        ("create", "events", "", "default", ""),
        ("list", "nodes", "", "", ""),
    ):
        attributes = {
            "group": api_group,
            "resource": resource,
            "verb": verb,
            "namespace": namespace,
            "name": name,
        }
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": user, "groups": ["system:serviceaccounts"], "resourceAttributes": attributes},
        }
        answer = space.api.ok("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", body)
        assert not answer["status"]["allowed"], attributes


# ------------------------------------------------------------------------------------------- an updater taken over


@dataclass(frozen=True)
class Attempt:
    """A request of somebody who has the updater's token: `path` and `body` know `{namespace}`."""

    what: str
    method: str
    path: str
    body: Document = field(default_factory=dict)


def slice_of(service: str, name: str, *, namespace: str = "{namespace}", family: str = "IPv4") -> Document:
    """A slice that sends a Service's clients to an address of the attacker's."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": family,
        "endpoints": [{"addresses": ["192.0.2.66" if family == "IPv4" else "2001:db8::66"]}],
        "ports": [{"name": "dns", "protocol": "UDP", "port": 53}],
    }


def lease_of(name: str) -> Document:
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "namespace": "{namespace}"},
        "spec": {"holderIdentity": "attacker"},
    }


OWN_SLICES = f"{SLICES}/{{namespace}}/endpointslices"
OWN_LEASES = f"{LEASES}/{{namespace}}/leases"
REFUSED = [
    Attempt("POST a slice for kube-dns", "POST", OWN_SLICES, slice_of("kube-dns", "kube-dns-x")),
    Attempt(
        "apply a slice for kube-dns", "APPLY", f"{OWN_SLICES}/kube-dns-x", slice_of("kube-dns", "kube-dns-x")
    ),
    Attempt("POST one of its own names", "POST", OWN_SLICES, slice_of("apiserver", "apiserver")),
    Attempt("apply another name", "APPLY", f"{OWN_SLICES}/apiserver-2", slice_of("apiserver", "apiserver-2")),
    Attempt("PUT its own slice", "PUT", f"{OWN_SLICES}/apiserver", slice_of("apiserver", "apiserver")),
    Attempt("delete its own slice", "DELETE", f"{OWN_SLICES}/apiserver"),
    Attempt(
        "apply into another namespace",
        "APPLY",
        f"{SLICES}/default/endpointslices/apiserver",
        slice_of("kubernetes", "apiserver", namespace="default"),
    ),
    Attempt(
        "change where kubernetes is",
        "APPLY",
        f"{SLICES}/default/endpointslices/kubernetes",
        slice_of("kubernetes", "kubernetes", namespace="default"),
    ),
    Attempt(
        "label its own slice for kube-dns",
        "APPLY",
        f"{OWN_SLICES}/apiserver",
        slice_of("kube-dns", "apiserver"),
    ),
    Attempt("POST a Lease", "POST", OWN_LEASES, lease_of(ACCOUNT)),
    Attempt("apply another Lease", "APPLY", f"{OWN_LEASES}/kube-scheduler", lease_of("kube-scheduler")),
    Attempt("PUT another Lease", "PUT", f"{OWN_LEASES}/kube-scheduler", lease_of("kube-scheduler")),
    Attempt("delete its own Lease", "DELETE", f"{OWN_LEASES}/{ACCOUNT}"),
]


def as_account(space: Space, attempt: Attempt) -> tuple[int, Document]:
    """The API server's answer to somebody with the updater's token."""
    text = json.loads(account(space).read_text())
    token = text["users"][0]["user"]["token"]
    body = json.dumps(attempt.body).replace("{namespace}", space.namespace)
    path = attempt.path.replace("{namespace}", space.namespace)
    applies = attempt.method == "APPLY"
    context = ssl.create_default_context(cafile=str(space.cluster.ca_file))
    with httpx.Client(verify=context, timeout=10.0, trust_env=False) as client:
        answer = client.request(
            "PATCH" if applies else attempt.method,
            f"https://{space.cluster.endpoints[0]}{path}{'?fieldManager=attacker&force=true' if applies else ''}",
            content=body if attempt.body else None,
            headers={
                "Authorization": f"Bearer {token}",
                "Content-Type": "application/apply-patch+yaml" if applies else "application/json",
            },
            extensions={"sni_hostname": space.cluster.host},
        )
    return answer.status_code, answer.json()


@pytest.mark.parametrize("there", [True, False], ids=["installed", "deleted"])
def test_an_updater_that_is_taken_over_writes_its_slices_and_its_lease_and_nothing_else(
    space: Space, there: bool
) -> None:
    """With its token nobody adds an address to another Service, even by a new object, nor takes another Lease."""
    documents = manifests(space.namespace)
    apply(space, documents)
    if not there:
        for path in (
            f"{SLICES}/{space.namespace}/endpointslices/apiserver",
            f"{LEASES}/{space.namespace}/leases/{ACCOUNT}",
        ):
            space.api.ok("DELETE", path)
    foreign_label = next(attempt for attempt in REFUSED if "label" in attempt.what)
    wait_for("the API server knows the policy", lambda: as_account(space, foreign_label)[0] == 403)
    for attempt in REFUSED:
        status, answer = as_account(space, attempt)
        assert (status, answer["reason"]) == (403, "Forbidden"), f"{attempt.what}: {status} {answer}"
    for attempt in (
        Attempt("apply its slice", "APPLY", f"{OWN_SLICES}/apiserver", slice_of("apiserver", "apiserver")),
        Attempt(
            "apply its other slice",
            "APPLY",
            f"{OWN_SLICES}/apiserver-ipv6",
            slice_of("apiserver", "apiserver-ipv6", family="IPv6"),
        ),
        Attempt("apply its Lease", "APPLY", f"{OWN_LEASES}/{ACCOUNT}", lease_of(ACCOUNT)),
    ):
        status, answer = as_account(space, attempt)
        assert status in (200, 201), f"{attempt.what}: {status} {answer}"


# ------------------------------------------------------------------------------------------------ none too much


@dataclass(frozen=True)
class Loss:
    """What becomes of the updater without a right: `problem` is what its log calls it, `breaks` names the thing.

    `provoke` makes it need the right; `broken` must be true then, and `mended` once the right is back.
    """

    right: str
    problem: str
    breaks: str
    broken: Callable[[Space, Updater], object]
    mended: Callable[[Space, Updater], object]
    provoke: Callable[[Space, Updater], object] = lambda _space, _updater: None


def _delete_slice(space: Space, _: Updater) -> None:
    space.wait_mirrored(THREE)
    space.api.ok("DELETE", f"{SLICES}/{space.namespace}/endpointslices/apiserver")


def _delete_lease(space: Space, updater: Updater) -> None:
    updater.wait_leading()
    space.api.ok("DELETE", f"{LEASES}/{space.namespace}/leases/{ACCOUNT}")


def _race_its_writes(space: Space, updater: Updater) -> None:
    """Change the slice and its source at once until a write meets a slice that has changed since."""
    space.wait_mirrored(THREE)
    path = f"{SLICES}/{space.namespace}/endpointslices/apiserver"
    other, stop = Api(space.cluster), threading.Event()

    def disturb() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            other.ok("PATCH", path, {"metadata": {"annotations": {"number": str(number)}}})

    disturber = threading.Thread(target=disturb)
    disturber.start()
    try:
        number = 0

        def conflict() -> bool:
            nonlocal number
            number += 1
            space.set_source([*THREE, f"192.0.2.{100 + number % 100}"])
            return updater.metric("writes_total", result="conflict") > 0

        wait_for("a write that conflicts", conflict, limit=120.0, pause=0.0)
    finally:
        stop.set()
        disturber.join()
        other.close()
    space.set_source(THREE)


def _mirrors(space: Space, _: Updater) -> object:
    return space.mirrored() == THREE


def _mirrors_nothing(space: Space, _: Updater) -> object:
    return space.mirrored() == []


def _has_no_slice(space: Space, _: Updater) -> object:
    return space.mirror() is None


def _leads(_: Space, updater: Updater) -> object:
    return updater.leads


def _does_not_lead(_: Space, updater: Updater) -> object:
    return not updater.leads


def _no_events(space: Space, _: Updater) -> object:
    return space.events() == []


def _announces(space: Space, _: Updater) -> object:
    space.set_source([*THREE, "192.0.2.4"] if len(space.mirrored()) == 3 else THREE)
    return space.events()


def _not_ready(words: str) -> Callable[[Space, Updater], object]:
    return lambda _, updater: words in updater.get("/readyz").text


def _ready(_: Space, updater: Updater) -> object:
    return updater.get("/readyz").status_code == 200


def _no_watch(resource: str) -> Callable[[Space, Updater], object]:
    return lambda _, updater: restarts(updater, resource) > 0


def _solved(problem: str) -> Callable[[Space, Updater], object]:
    return lambda _, updater: updater.said(f"{problem}: solved")


def _lease_status(status: int) -> Callable[[Space, Updater], object]:
    return lambda space, _: space.api("GET", f"{LEASES}/{space.namespace}/leases/{ACCOUNT}")[0] == status


OWN = ACCOUNT
DISCOVERY, COORDINATION = "discovery.k8s.io", "coordination.k8s.io"
LOSSES = [
    Loss(
        right_of(SOURCE, DISCOVERY, "endpointslices", "list"),
        "watch-kubernetes",
        "the control planes are not known, and nothing is mirrored",
        _mirrors_nothing,
        _mirrors,
    ),
    Loss(
        right_of(SOURCE, DISCOVERY, "endpointslices", "watch"),
        "watch-kubernetes",
        "changes of the control planes come with the next list, not at once",
        _no_watch("kubernetes"),
        _solved("watch-kubernetes"),
    ),
    Loss(
        right_of(OWN, DISCOVERY, "endpointslices", "list"),
        "watch-slices",
        "the Service's slices are not known, and nothing is mirrored",
        _mirrors_nothing,
        _mirrors,
    ),
    Loss(
        right_of(OWN, DISCOVERY, "endpointslices", "watch"),
        "watch-slices",
        "hand edits are put back with the next list, not at once",
        _no_watch("slices"),
        _solved("watch-slices"),
    ),
    Loss(
        right_of(OWN, DISCOVERY, "endpointslices", "patch"),
        "write",
        "nothing is mirrored",
        _mirrors_nothing,
        _mirrors,
    ),
    Loss(
        right_of(OWN, DISCOVERY, "endpointslices", "create"),
        "write",
        "a slice that somebody deletes does not come back",
        _has_no_slice,
        _mirrors,
        _delete_slice,
    ),
    Loss(
        right_of(OWN, DISCOVERY, "endpointslices", "get"),
        "write",
        "a write that met a change by somebody else is not made again at once",
        lambda _space, updater: updater.said("not permitted (write)"),
        _mirrors,
        _race_its_writes,
    ),
    Loss(
        right_of(OWN, "", "services", "list"),
        "watch-service",
        "a Service that is gone or has another clusterIP is not noticed",
        _not_ready("service: not listed yet"),
        _ready,
    ),
    Loss(
        right_of(OWN, "", "services", "watch"),
        "watch-service",
        "changes of the Service are noticed with the next list, not at once",
        _no_watch("service"),
        _solved("watch-service"),
    ),
    Loss(
        right_of(OWN, COORDINATION, "leases", "get"),
        "lease",
        "no replica leads",
        _does_not_lead,
        _leads,
    ),
    Loss(
        right_of(OWN, COORDINATION, "leases", "update"),
        "lease",
        "no replica leads",
        _does_not_lead,
        _leads,
    ),
    Loss(
        right_of(OWN, COORDINATION, "leases", "patch"),
        "lease",
        "a Lease that somebody deletes does not come back",
        _lease_status(404),
        _lease_status(200),
        _delete_lease,
    ),
    Loss(
        right_of(OWN, COORDINATION, "leases", "create"),
        "lease",
        "a Lease that somebody deletes does not come back",
        _lease_status(404),
        _lease_status(200),
        _delete_lease,
    ),
    Loss(
        right_of(OWN, COORDINATION, "leases", "list"),
        "watch-lease",
        "a Lease that is let go is noticed with the next try, not at once",
        _no_watch("lease"),
        _solved("watch-lease"),
    ),
    Loss(
        right_of(OWN, COORDINATION, "leases", "watch"),
        "watch-lease",
        "a Lease that is let go is noticed with the next try, not at once",
        _no_watch("lease"),
        _solved("watch-lease"),
    ),
    Loss(
        right_of(OWN, "events.k8s.io", "events", "create"),
        "events",
        "the Service has no Events",
        _no_events,
        _announces,
    ),
]


def test_every_right_has_its_reason() -> None:
    """The losses below are those of exactly the rights in the Roles."""
    assert {loss.right for loss in LOSSES} == rights(manifests("kube-system"))
    assert len({loss.right for loss in LOSSES}) == len(LOSSES)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.right.replace(" ", "-"))
def test_each_right_is_needed(space: Space, loss: Loss) -> None:
    """Without it the named thing breaks, the log says so once with what to do, and it mends once the right is back."""
    full = manifests(space.namespace)
    apply(space, without(full, loss.right))
    with Updater(space.cluster, space.namespace, *QUIET, kubeconfig=account(space)) as updater:
        loss.provoke(space, updater)
        line = updater.wait_said(f"not permitted ({loss.problem})")
        assert "apiha manifests" in line["message"]
        wait_for(loss.breaks, lambda: loss.broken(space, updater))
        assert updater.process.poll() is None
        assert updater.get("/healthz").status_code == 200
        apply(space, full)
        wait_for(f"no more of: {loss.breaks}", lambda: loss.mended(space, updater), pause=0.2)
        assert updater.terminate() == 0
