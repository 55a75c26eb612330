"""What a node finds out by itself: the cluster asked with kubelet's certificate, over real TLS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apiha.endpoint import Endpoint
from apiha.errors import ApihaError, ConfigError, NoControlPlane
from apiha.install.discover import Discovery, discover
from apiha.install.found import missing, settings_found, vip_of
from apiha.trust import common_name
from tests.support.api_server import Answer, ApiServer
from tests.support.control_plane import Authority
from tests.support.joined import SLICE, join, kubeconfig, publish, service, slice_of

SERVICES = "/api/v1/services"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The cluster's CA."""
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def server(authority: Authority) -> Iterator[ApiServer]:
    """An API server that wants a client certificate, with three control planes and the Service."""
    with ApiServer(authority, client_ca=True) as server:
        publish(server, "10.0.0.11", "10.0.0.12", "10.0.0.13")
        server.put(f"{SERVICES}/apiserver", service("10.96.0.100"))
        yield server


@pytest.fixture
def kubelet(tmp_path: Path, authority: Authority, server: ApiServer) -> Path:
    """The kubelet.conf of a node that joined."""
    return join(tmp_path, authority, server)


def settings(seen: Discovery) -> dict[str, str]:
    """What was found."""
    return {found.key: found.text for found in seen.found}


def problem(seen: Discovery, key: str) -> ApihaError:
    """Why a key was not found."""
    assert key not in settings(seen)
    return seen.problems[key]


def test_control_planes_and_vip_are_found_with_their_source(server: ApiServer, kubelet: Path) -> None:
    """The EndpointSlice `kubernetes` and the Service `apiserver`, read as the node that this is."""
    seen = discover({}, kubelet=kubelet)
    assert settings(seen) == {"control_plane": "10.0.0.11,10.0.0.12,10.0.0.13", "vip": "10.96.0.100"}
    assert seen.problems == {}
    asked = f"{server.address}:{server.port} says so to system:node:worker-1"
    assert [found.source for found in seen.found] == [
        f"the Service default/kubernetes ({asked})",
        f"the Service kube-system/apiserver ({asked})",
    ]
    assert [(request.path, request.query) for request in server.seen] == [
        (SLICE, {}),
        (SERVICES, {"fieldSelector": "metadata.name=apiserver"}),
    ]
    assert {request.method for request in server.seen} == {"GET"}


def test_a_server_that_is_named_by_its_address(tmp_path: Path, authority: Authority) -> None:
    """As kubeadm's certificates have it: verified for the address that kubelet.conf names."""
    certificate = authority.issue("ip_only", address="127.0.0.1")
    with ApiServer(authority, certificate=certificate, client_ca=True) as server:
        publish(server, "10.0.0.11")
        server.put(f"{SERVICES}/apiserver", service("10.96.0.100"))
        path = tmp_path / "kubelet.conf"
        path.write_text(kubeconfig(authority, server.url))
        assert settings(discover({}, kubelet=path))["vip"] == "10.96.0.100"


def test_a_server_that_is_named_by_a_name(tmp_path: Path, authority: Authority) -> None:
    """The name is resolved, and every address of it is tried."""
    certificate = authority.issue(host="localhost")
    with ApiServer(authority, certificate=certificate) as server:
        publish(server, "10.0.0.11")
        path = tmp_path / "kubelet.conf"
        path.write_text(kubeconfig(authority, f"https://localhost:{server.port}"))
        assert settings(discover({}, kubelet=path)) == {"control_plane": "10.0.0.11"}


def test_given_settings_win(kubelet: Path) -> None:
    """What was given is not found again, and what is missing of it still is."""
    assert settings(discover({"vip"}, kubelet=kubelet)) == {"control_plane": "10.0.0.11,10.0.0.12,10.0.0.13"}
    assert settings(discover({"control_plane"}, kubelet=kubelet)) == {"vip": "10.96.0.100"}


def test_a_node_that_may_not_read_the_slice_reads_the_endpoints(server: ApiServer, kubelet: Path) -> None:
    """Before `apiha manifests` was applied a kubelet may read the deprecated Endpoints only."""
    subset = {"addresses": [{"ip": "10.0.0.11"}], "ports": [{"name": "https", "port": 6443}]}
    server.put("/api/v1/namespaces/default/endpoints/kubernetes", {"subsets": [subset]})
    server.next_answers.append(Answer(403))
    assert settings(discover({}, kubelet=kubelet))["control_plane"] == "10.0.0.11"


def test_without_the_service_it_says_what_to_apply(server: ApiServer, kubelet: Path) -> None:
    """The control planes are found, and the line says what makes the VIP."""
    server.delete(f"{SERVICES}/apiserver")
    seen = discover({}, kubelet=kubelet)
    error = problem(seen, "vip")
    assert isinstance(error, ConfigError)
    assert str(error).startswith(
        "vip: not given, and the cluster has no Service `apiserver`: apply `apiha manifests`"
    )
    assert str(error).endswith("or give --vip ADDR")


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda path: path.unlink(), ConfigError, "cannot read a kubeconfig: No such file or directory"),
        (lambda path: path.write_text("{"), ConfigError, "not a kubeconfig"),
        (lambda path: path.write_text("kind: Config\n"), ConfigError, "has no server"),
    ],
    ids=["missing", "damaged", "empty"],
)
def test_a_kubelet_conf_that_cannot_serve(
    kubelet: Path, make: Any, kind: type[ApihaError], words: str
) -> None:
    """One line: what is wrong with the file, and what to give instead."""
    make(kubelet)
    error = problem(discover({}, kubelet=kubelet), "control_plane")
    assert type(error) is kind
    assert str(error).startswith(f"control_plane and vip: not given, and not found: {kubelet}")
    assert words in str(error)
    assert str(error).endswith("; give --control-plane ADDR,... and --vip ADDR")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("client-certificate-data", "ignored", "has no client certificate"),
        ("certificate-authority-data", "ignored", "has no CA"),
        ("server: https", "server: http", "expected https://HOST:PORT"),
        ("tls-server-name: ", "proxy-url: http://", "through http://"),
    ],
    ids=["no certificate", "no CA", "http", "proxy"],
)
def test_a_kubelet_conf_that_apiha_cannot_follow(kubelet: Path, old: str, new: str, words: str) -> None:
    """It says why, and asks nobody."""
    kubelet.write_text(kubelet.read_text().replace(old, new, 1))
    error = problem(discover({}, kubelet=kubelet), "vip")
    assert isinstance(error, ConfigError)
    assert words in str(error)


def test_an_impostor_tells_nothing(tmp_path: Path, authority: Authority) -> None:
    """An API server without a certificate of the cluster's CA is not asked."""
    with ApiServer(authority, certificate=authority.issue("wrong_ca")) as impostor:
        publish(impostor, "10.6.6.6")
        error = problem(discover({}, kubelet=join(tmp_path, authority, impostor)), "control_plane")
    assert isinstance(error, NoControlPlane)
    assert "certificate" in str(error)
    assert impostor.seen == []


def test_an_api_server_that_is_down(kubelet: Path, server: ApiServer) -> None:
    """It is exit code 3, and names the address."""
    server.__exit__()
    error = problem(discover({}, kubelet=kubelet), "control_plane")
    assert isinstance(error, NoControlPlane)
    assert f"{server.address}:{server.port}" in str(error)


def test_a_user_that_may_not_list_services(server: ApiServer, kubelet: Path) -> None:
    """It says who was refused what."""
    server.next_answers += [
        Answer(200, body=b'{"endpoints": [{"addresses": ["10.0.0.11"]}], "ports": [{"port": 1}]}')
    ]
    server.next_answers += [Answer(403)]
    error = problem(discover({}, kubelet=kubelet), "vip")
    assert "answered HTTP 403 to system:node:worker-1 for the list of Services" in str(error)


# ------------------------------------------------------------------------------------------------ what counts


def listing(*services: Any) -> dict[str, Any]:
    """A ServiceList."""
    return {"kind": "ServiceList", "items": list(services)}


def test_the_service_of_the_manifests_wins() -> None:
    """A Service of the same name that somebody else made is not the VIP, wherever it is."""
    other = service("10.96.0.7", ours=False, selector={"app": "web"})
    elsewhere = service("10.96.0.8", namespace="shop", ours=False)
    ours = service("10.96.0.100", namespace="apiha-system")
    vip = vip_of(listing(other, elsewhere, ours))
    assert (vip.address, vip.service) == ("10.96.0.100", "apiha-system/apiserver")


def test_a_service_made_by_hand_in_kube_system_will_do() -> None:
    """Without labels, as long as it has no selector."""
    assert vip_of(listing(service("10.96.0.9", ours=False))).address == "10.96.0.9"
    with pytest.raises(ConfigError):
        vip_of(listing(service("10.96.0.9", ours=False, selector={"app": "web"})))
    with pytest.raises(ConfigError):
        vip_of(listing(service("10.96.0.9", namespace="shop", ours=False)))


def test_several_services_are_a_question() -> None:
    """Two installations: it names both, and does not guess."""
    with pytest.raises(
        ConfigError, match=r"a/apiserver \(10.96.0.1\), b/apiserver \(10.96.0.2\); give --vip"
    ):
        vip_of(listing(service("10.96.0.1", namespace="a"), service("10.96.0.2", namespace="b")))


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {"items": "x"},
        {"items": [1, {}]},
        listing(service("None")),
        listing({**service("10.96.0.1"), "spec": {"clusterIP": "10.96.0.1"}}),
        listing(service("10.96.0.1", port=0)),
    ],
)
def test_what_is_no_vip(document: Any) -> None:
    """Headless, without a port, or no list of Services at all."""
    with pytest.raises(ConfigError, match="no Service"):
        vip_of(document)


def planes(*ports: int) -> tuple[Endpoint, ...]:
    """Control planes on these ports."""
    return tuple(Endpoint(f"10.0.0.{11 + i}", port) for i, port in enumerate(ports))


def test_clients_dial_the_port_of_the_vip() -> None:
    """It is written where it is not the usual one, and so is a control plane's that differs."""
    vip = vip_of(listing(service("10.96.0.100", port=443)))
    found = settings_found(planes(6443, 443), vip, {}, asked="x", given_port=None)
    assert {f.key: f.text for f in found} == {
        "control_plane": "10.0.0.11:6443,10.0.0.12",
        "vip": "10.96.0.100",
        "port": "443",
    }


def test_a_given_port_stays() -> None:
    """Nothing is said about the port then."""
    vip = vip_of(listing(service("10.96.0.100", port=443)))
    found = settings_found(planes(7000), vip, {"port"}, asked="x", given_port=7000)
    assert {f.key: f.text for f in found} == {"control_plane": "10.0.0.11", "vip": "10.96.0.100"}


def test_with_a_given_vip_the_port_is_that_of_the_control_planes() -> None:
    """If they all have the same; else the usual one."""
    found = settings_found(planes(7000, 7000), None, {"vip"}, asked="x", given_port=None)
    assert {f.key: f.text for f in found} == {"control_plane": "10.0.0.11,10.0.0.12", "port": "7000"}
    found = settings_found(planes(7000, 6443), None, {"vip"}, asked="x", given_port=None)
    assert {f.key: f.text for f in found} == {"control_plane": "10.0.0.11:7000,10.0.0.12"}


def test_what_a_node_cannot_be_started_without() -> None:
    """The control planes; and the VIP, unless somebody gave the control planes."""
    no_planes, no_vip = NoControlPlane("a"), ConfigError("b")
    both = {"control_plane": no_planes, "vip": no_vip}
    assert missing(both, {}, {}) is no_planes
    assert missing(both, {"vip"}, {"vip"}) is no_planes
    assert missing({"vip": no_vip}, {"control_plane"}, {}) is no_vip
    assert missing(both, {"control_plane"}, {"control_plane"}) is None
    assert missing({}, {"control_plane", "vip"}, {}) is None


# ------------------------------------------------------------------------------------------- who the node is


def test_the_common_name_of_a_certificate(authority: Authority) -> None:
    """Read from the first certificate, whatever stands around it."""
    client = authority.issue_client("system:node:worker-1.example.com")
    assert common_name(client.cert.read_text()) == "system:node:worker-1.example.com"
    assert common_name(client.key.read_text() + client.cert.read_text()) == "system:node:worker-1.example.com"
    assert common_name(authority.issue_client("system:node:" + "x" * 50).cert.read_text()) is not None


def test_what_has_no_common_name(authority: Authority) -> None:
    """Text that is no certificate, and one cut short anywhere, is nobody's; nothing is raised."""
    whole = authority.issue_client().cert.read_text()
    begin, _, rest = whole.partition("-----BEGIN CERTIFICATE-----\n")
    body, _, _ = rest.partition("-----END CERTIFICATE-----")
    packed = "".join(body.split())
    for length in range(0, len(packed), 4):
        cut = f"{begin}-----BEGIN CERTIFICATE-----\n{packed[:length]}\n-----END CERTIFICATE-----\n"
        assert common_name(cut) in (None, "system:node:worker-1")
    for text in ("", "x", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----", authority.ca_pem):
        assert common_name(text) is None


def test_slices_of_several_families_are_no_trouble(server: ApiServer, kubelet: Path) -> None:
    """Not-ready control planes are left out, as everywhere."""
    document = slice_of("10.0.0.11", "10.0.0.12")
    document["endpoints"][1]["conditions"]["ready"] = False
    server.put(SLICE, document)
    assert settings(discover({}, kubelet=kubelet))["control_plane"] == "10.0.0.11"
