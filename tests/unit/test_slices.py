"""The one reader of EndpointSlices: which ports and addresses count, whatever a server sends."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from apiha.endpoint import Endpoint
from apiha.node.learned import NotLearned, control_planes_of
from apiha.slices import control_planes, ready_endpoints, slices_of_endpoints, slices_of_list

KEYS = [
    "items",
    "endpoints",
    "addresses",
    "ports",
    "port",
    "name",
    "protocol",
    "conditions",
    "subsets",
    "notReadyAddresses",
    "ip",
    "ready",
    "serving",
    "nodeName",
]
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["10.0.0.1", "https", "TCP", "x"])
)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=20,
)
ENTRIES = st.fixed_dictionaries(
    {
        "addresses": st.lists(
            st.sampled_from(["10.0.0.11", "10.0.0.12", "fd00::11", "a.example", ""]), max_size=3
        )
    },
    optional={"conditions": st.fixed_dictionaries({}, optional={"ready": st.none() | st.booleans()})},
)
PORTS = st.lists(
    st.fixed_dictionaries(
        {"port": st.sampled_from([6443, 7443, 0, None, "6443", True])},
        optional={
            "name": st.sampled_from(["https", "metrics", "", None]),
            "protocol": st.sampled_from(["TCP", "UDP"]),
        },
    ),
    max_size=3,
)
SLICES = st.lists(
    st.fixed_dictionaries({"endpoints": st.lists(ENTRIES, max_size=3), "ports": PORTS}), max_size=3
)


def slice_of(*endpoints: dict[str, Any], ports: Any = None) -> dict[str, Any]:
    """An EndpointSlice with these endpoints."""
    return {"endpoints": list(endpoints), "ports": ports or [{"name": "https", "port": 6443}]}


def test_ready_addresses_of_all_slices() -> None:
    """The addresses of all slices, of both families, sorted and each once; unready ones are left out."""
    slices = [
        slice_of(
            {"addresses": ["10.0.0.12"], "conditions": {"ready": True}},
            {"addresses": ["10.0.0.11"], "conditions": {}},
            {"addresses": ["10.0.0.13"], "conditions": {"ready": False}},
            {"addresses": ["10.0.0.14"], "conditions": {"ready": None}},
        ),
        slice_of({"addresses": ["10.0.0.12"]}, {"addresses": ["FD00::0012"]}),
        {"endpoints": None, "ports": None},
    ]
    found = [str(endpoint) for endpoint in ready_endpoints(slices_of_list({"items": slices}))]
    assert found == ["10.0.0.11:6443", "10.0.0.12:6443", "10.0.0.14:6443", "[fd00::12]:6443"]


def test_the_port_called_https_counts() -> None:
    """Of several ports the one that API servers call `https`; without that name the first TCP port."""
    named = [{"name": "metrics", "port": 1}, {"name": "https", "port": 6443}]
    assert ready_endpoints([slice_of({"addresses": ["10.0.0.1"]}, ports=named)])[0].port == 6443
    other = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "secure", "port": 7443}]
    assert ready_endpoints([slice_of({"addresses": ["10.0.0.1"]}, ports=other)])[0].port == 7443


def test_the_deprecated_endpoints() -> None:
    """The object that every kubelet may read: ready addresses of all subsets, the others not ready."""
    document = {
        "subsets": [
            {
                "addresses": [{"ip": "10.0.0.12"}, {"ip": "10.0.0.11"}],
                "notReadyAddresses": [{"ip": "10.0.0.13"}],
                "ports": [{"name": "https", "port": 6443}],
            }
        ]
    }
    planes = control_planes(slices_of_endpoints(document))
    assert [(plane.endpoint.address, plane.ready) for plane in planes] == [
        ("10.0.0.11", True),
        ("10.0.0.12", True),
        ("10.0.0.13", False),
    ]


@given(SLICES)
def test_node_and_updater_see_the_same(slices: list[dict[str, Any]]) -> None:
    """What a node learns is exactly what the updater mirrors as ready, for every list of slices."""
    mirrored = {plane.endpoint for plane in control_planes(slices) if plane.ready}
    try:
        learned = set(control_planes_of(slices))
    except NotLearned:
        learned = set()
    assert learned == mirrored


@given(JSON)
def test_whatever_a_server_sends(document: Any) -> None:
    """Any JSON at all is endpoints with whole ports, or nothing; never an exception."""
    for slices in (slices_of_list(document), slices_of_endpoints(document), (document,), document):
        for plane in control_planes(slices):
            assert isinstance(plane.endpoint, Endpoint)
            assert type(plane.endpoint.port) is int
            assert isinstance(plane.ready, bool)
