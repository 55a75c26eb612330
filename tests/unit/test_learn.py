"""Learning from an API server: what is asked, what is taken, and what is refused."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from apiha.config import Config
from apiha.drained import ANNOTATION
from apiha.endpoint import Endpoint
from apiha.errors import ConfigError, NoControlPlane, VipTimeout
from apiha.node.context import Node
from apiha.node.learn import learn
from apiha.node.learned import (
    ENDPOINTS_PATH,
    NAMED_SERVICES_PATH,
    NAMESPACE_PATH,
    SERVICE_PATH,
    SLICE_PATH,
    NotLearned,
    node_prober,
)
from apiha.node.memory import FILE, MOST, Cluster, load
from apiha.node.pin import pin
from apiha.node.reconcile import reconcile
from apiha.node.wait import wait_vip
from apiha.probe import Prober
from apiha.trust import fingerprint
from tests.support.world import (
    HOST,
    PLANES,
    READY,
    REFUSED,
    VIP,
    A,
    B,
    C,
    World,
    block,
    events,
    with_config,
)

Answers = dict[str, tuple[int, bytes]]


def named(*addresses: str, port: int = 6443) -> bytes:
    """The EndpointSlice of default/kubernetes."""
    return json.dumps(
        {
            "endpoints": [{"addresses": [address]} for address in addresses],
            "ports": [{"name": "https", "port": port}],
        }
    ).encode()


def says(node: Node, answers: Answers, *, elsewhere: dict[Endpoint, Answers] | None = None) -> None:
    """Let every API server answer a node that identifies itself with these bodies; some with others."""

    @contextmanager
    def request(endpoint: Endpoint, path: str) -> Iterator[Any]:
        own = (elsewhere or {}).get(endpoint, answers)
        status, body = own.get(path, (403, b"{}"))
        yield SimpleNamespace(status_code=status, iter_raw=lambda: iter([body[:7], body[7:]]))

    @contextmanager
    def identified(_: Config) -> Iterator[Prober]:
        yield cast(Prober, SimpleNamespace(request=request))

    node.make_node_prober = cast(Callable[[Config], AbstractContextManager[Prober]], identified)
    with_config(node, insecure_skip_tls_verify=True)


def of_cluster(uid: str) -> bytes:
    """The namespace kube-system of a cluster."""
    return json.dumps({"kind": "Namespace", "metadata": {"name": "kube-system", "uid": uid}}).encode()


def test_learned_before_the_block_is_written(node: Node, world: World) -> None:
    """The fallbacks of a pass are those that it learned, in the same pass."""
    says(node, {SLICE_PATH: (200, named("10.0.1.1", "10.0.1.2"))})
    world.says(VIP, READY)
    reconcile(node)
    assert set(block(node)) == {VIP.address, "10.0.1.1", "10.0.1.2", *(e.address for e in PLANES)}


@pytest.mark.parametrize("phase", [reconcile, wait_vip])
def test_another_cluster_with_the_same_ca_is_no_home(
    node: Node, world: World, log: io.StringIO, phase: Callable[..., object]
) -> None:
    """The VIP leads to a cluster with another UID: it is not taken, or given up; the node stays with its own."""
    says(
        node,
        {NAMESPACE_PATH: (200, of_cluster("ours")), SLICE_PATH: (200, named(*(e.address for e in PLANES)))},
        elsewhere={VIP: {NAMESPACE_PATH: (200, of_cluster("theirs")), SLICE_PATH: (200, named("10.9.9.9"))}},
    )
    for endpoint in PLANES:
        world.says(endpoint, READY)
    reconcile(node)
    world.says(VIP, READY)
    for first in ([A.address], [VIP.address, A.address]):
        node.hosts.pin(HOST, first)
        if phase is reconcile:
            reconcile(node)
        else:
            with pytest.raises(VipTimeout, match="another cluster"):
                wait_vip(node, timeout=10.0)
        assert block(node)[0] == A.address
    assert "10.9.9.9" not in (node.state_dir / FILE).read_text()
    assert any(e["level"] == "warning" and "another cluster" in e["message"] for e in events(log))


def test_a_control_plane_of_another_cluster_is_passed_over(node: Node, world: World) -> None:
    """A configured address was given to a machine of another cluster with the same CA."""
    ours = {NAMESPACE_PATH: (200, of_cluster("ours")), SLICE_PATH: (200, named(B.address, C.address))}
    says(node, ours, elsewhere={A: {NAMESPACE_PATH: (200, of_cluster("theirs"))}})
    world.says(B, READY)
    reconcile(node)
    for endpoint in PLANES:
        world.says(endpoint, READY)
    node.hosts.pin(HOST, [A.address])
    reconcile(node)
    assert block(node)[0] in (B.address, C.address)
    says(node, {NAMESPACE_PATH: (200, of_cluster("theirs"))})
    with pytest.raises(NoControlPlane, match="another cluster"):
        reconcile(node)


def test_another_ca_is_another_cluster_by_intent(
    node: Node, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who gives a node another CA moves it: what it knew of the old cluster is forgotten. A new CA of the same cluster
    makes it forget nothing.
    """
    for ca, uid, address in (
        ("one", "u1", "10.0.1.1"),
        ("two", "u1", "10.0.1.2"),
        ("three", "u2", "10.0.1.3"),
    ):
        says(node, {NAMESPACE_PATH: (200, of_cluster(uid)), SLICE_PATH: (200, named(address))})
        monkeypatch.setattr("apiha.node.learn._fingerprint", lambda _, ca=ca: ca)
        learn(node, A)
        memory = load(node.state_dir)
        assert memory.cluster == Cluster(uid, ca)
        expected = {"one": {1}, "two": {1, 2}, "three": {3}}[ca]
        assert {e.address for e in memory.endpoints} == {f"10.0.1.{number}" for number in expected}


def test_without_the_right_to_the_namespace_everything_else_is_learned(node: Node) -> None:
    """403 for kube-system, and the deprecated Endpoints instead of the slice."""
    endpoints = {"subsets": [{"addresses": [{"ip": "10.0.1.1"}], "ports": [{"name": "https", "port": 6443}]}]}
    says(node, {ENDPOINTS_PATH: (200, json.dumps(endpoints).encode())})
    learn(node, A)
    memory = load(node.state_dir)
    assert memory.endpoints == (Endpoint("10.0.1.1", 6443),)
    assert memory.cluster.uid is None


def test_thousands_of_addresses_are_refused_with_a_warning(node: Node, log: io.StringIO) -> None:
    """15,000 addresses write no line to the file; so do one too many."""
    for number in (15_000, MOST + 1):
        addresses = [f"10.{n // 62500}.{n // 250 % 250}.{n % 250 + 1}" for n in range(number)]
        says(node, {SLICE_PATH: (200, named(*addresses))})
        learn(node, A)
        assert not (node.state_dir / FILE).exists()
    assert [e["level"] for e in events(log)] == ["warning", "warning"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[" * 100_000,
        b'{"endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"name": "https", "port": 1e999}]}',
        b'{"endpoints": [{"addresses": [{"a": 1}]}], "ports": [{"name": "https", "port": 6443}]}',
        b"\x1f\x8b\x08\x00" + b"\x00" * 100,
        b" " * (1 << 21),
        b"9" * 100_000,
    ],
)
def test_a_strange_answer_never_fails_a_pass(node: Node, world: World, body: bytes) -> None:
    """Whatever an API server says: the block is written, and nothing is kept."""
    for path in (SLICE_PATH, NAMESPACE_PATH):
        says(node, {path: (200, body)})
        world.says(VIP, READY)
        reconcile(node)
        assert block(node)[0] == VIP.address
        assert not (node.state_dir / FILE).exists()


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (NotLearned("HTTP 403"), "debug"),
        (PermissionError(13, "Permission denied"), "debug"),
        (ConfigError("no client certificate"), "debug"),
        (AttributeError("who knows"), "warning"),
        (OverflowError("cannot convert"), "warning"),
    ],
)
def test_errors_of_learning_are_only_logged(
    node: Node, world: World, log: io.StringIO, error: Exception, level: str
) -> None:
    """Whatever learning meets, the swap stands."""

    @contextmanager
    def broken(_: Config) -> Iterator[Prober]:
        raise error
        yield

    node.make_node_prober = cast(Callable[[Config], AbstractContextManager[Prober]], broken)
    world.says(VIP, READY)
    reconcile(node)
    assert block(node)[0] == VIP.address
    assert [e["level"] for e in events(log) if "not learned" in e["message"]] == [level]


def test_a_state_folder_that_takes_nothing_is_no_reason_to_forget(
    node: Node, world: World, log: io.StringIO
) -> None:
    """What was learned counts for the block of this pass even where it cannot be kept; one warning says so."""
    node.state_dir.write_text("a file where the folder should be")
    says(node, {SLICE_PATH: (200, named("10.0.1.1"))})
    world.says(VIP, READY)
    reconcile(node)
    assert "10.0.1.1" in block(node)
    warnings = [event["message"] for event in events(log) if event["level"] == "warning"]
    assert warnings == [
        f"control planes not kept in {node.state_dir}: File exists; the next boot will not know them"
    ]


def test_a_node_without_a_certificate(tmp_path: Path) -> None:
    """No kubelet.conf yet, or none with a certificate: ConfigError naming the file."""
    kubelet = tmp_path / "kubelet.conf"
    with pytest.raises(ConfigError, match=r"kubelet\.conf"), node_prober(Config(), kubelet=kubelet):
        pass
    kubelet.write_text("users: []\n")
    with pytest.raises(ConfigError, match="no client certificate"), node_prober(Config(), kubelet=kubelet):
        pass


def test_the_fingerprint_of_a_bundle() -> None:
    """Order, line ends and comments do not count; another certificate does."""

    def pem(*bodies: str) -> str:
        return "".join(
            f"# c\r\n-----BEGIN CERTIFICATE-----\r\n{b}\r\n-----END CERTIFICATE-----\n" for b in bodies
        )

    assert fingerprint(pem("AA", "BB")) == fingerprint(pem("BB", "AA", "AA").replace("\r", ""))
    assert fingerprint(pem("AA")) != fingerprint(pem("AB"))


def drained(*addresses: str) -> bytes:
    """The Services with the VIP as their clusterIP: one, with its annotation."""
    annotations = {ANNOTATION: ",".join(addresses)} if addresses else {}
    return json.dumps({"items": [{"metadata": {"name": "apiserver", "annotations": annotations}}]}).encode()


def test_drained_control_planes_are_the_last_fallbacks(node: Node, world: World) -> None:
    """Learned in the same pass, kept for the next boot, and forgotten when the drain ends."""
    path = SERVICE_PATH.format(vip=VIP.address)
    names = tuple(endpoint.address for endpoint in PLANES)
    world.says(VIP, READY)
    for endpoint in PLANES:
        world.says(endpoint, READY)
    for held in (A, C):
        says(node, {SLICE_PATH: (200, named(*names)), path: (200, drained(held.address))})
        reconcile(node)
        assert block(node)[-1] == held.address
        assert load(node.state_dir).drained == {held.address}
        assert node.candidates(())[-1] == held
    says(node, {SLICE_PATH: (200, named(*names)), path: (200, drained())})
    reconcile(node)
    assert load(node.state_dir).drained == frozenset()
    assert node.candidates(()) == (A, B, C)


def test_drains_are_learned_by_a_vip_of_the_second_family_too(node: Node) -> None:
    """The API server finds a Service by its first address only; another Service of that name is not taken for it."""

    def named_service(drain: str, *cluster_ips: str) -> dict[str, object]:
        return {"metadata": {"annotations": {ANNOTATION: drain}}, "spec": {"clusterIPs": list(cluster_ips)}}

    others: list[object] = [
        {"spec": 7},
        {"spec": {"clusterIPs": None}},
        named_service(A.address, "10.96.0.9"),
    ]
    for services, expected in (
        ([*others, named_service(B.address, "fd00::9", VIP.address)], {B.address}),
        (others, set()),
    ):
        says(
            node,
            {
                SLICE_PATH: (200, named("10.0.1.1")),
                SERVICE_PATH.format(vip=VIP.address): (200, b'{"items": []}'),
                NAMED_SERVICES_PATH: (200, json.dumps({"items": services}).encode()),
            },
        )
        learn(node, A)
        assert load(node.state_dir).drained == expected


def test_a_boot_tries_a_drained_control_plane_last_and_takes_it_if_it_is_the_last(
    node: Node, world: World
) -> None:
    """What was remembered counts; a node never stays without an address for it."""
    node.remember(replace(load(node.state_dir), drained=frozenset({A.address})))
    for endpoint in PLANES:
        world.says(endpoint, READY)
    assert pin(node)[0] == B.address
    for endpoint in (B, C):
        world.says(endpoint, REFUSED)
    assert pin(node)[0] == A.address


@pytest.mark.parametrize(
    "answer",
    [(403, b"{}"), (400, b"{}"), (200, b"["), (200, b"[]"), (200, b'{"items": [7, {"metadata": 1}]}')],
)
def test_where_drains_cannot_be_learned_everything_else_is(node: Node, answer: tuple[int, bytes]) -> None:
    """No right to it, an old API server, a strange answer: the control planes are kept all the same."""
    says(node, {SLICE_PATH: (200, named("10.0.1.1")), SERVICE_PATH.format(vip=VIP.address): answer})
    learn(node, A)
    memory = load(node.state_dir)
    assert [endpoint.address for endpoint in memory.endpoints] == ["10.0.1.1"]
    assert memory.drained == frozenset()
