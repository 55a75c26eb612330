"""What is read of the API server's answers, and kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiha.cluster import (
    LEARNED,
    NotLearned,
    load_learned,
    node_prober,
    parse_endpoints,
    parse_slices,
    save_learned,
)
from apiha.config import Config
from apiha.endpoint import Endpoint
from apiha.errors import ConfigError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "items",
                    "endpoints",
                    "addresses",
                    "ports",
                    "port",
                    "name",
                    "conditions",
                    "subsets",
                    "ip",
                    "ready",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


def slice_of(*endpoints: dict[str, Any], ports: Any = None) -> dict[str, Any]:
    """An EndpointSlice with these endpoints."""
    return {"endpoints": list(endpoints), "ports": ports or [{"name": "https", "port": 6443}]}


def test_slices() -> None:
    """The addresses of all slices, of both families, sorted and each once; unready ones are left out."""
    document = {
        "items": [
            slice_of(
                {"addresses": ["10.0.0.12"], "conditions": {"ready": True}},
                {"addresses": ["10.0.0.11"], "conditions": {}},
                {"addresses": ["10.0.0.13"], "conditions": {"ready": False}},
                {"addresses": ["10.0.0.14"], "conditions": {"ready": None}},
            ),
            slice_of({"addresses": ["10.0.0.12"]}, {"addresses": ["FD00::0012"]}),
            {"endpoints": None, "ports": None},
        ]
    }
    found = [str(endpoint) for endpoint in parse_slices(document)]
    assert found == ["10.0.0.11:6443", "10.0.0.12:6443", "10.0.0.14:6443", "[fd00::12]:6443"]


def test_the_port_called_https_counts() -> None:
    """Of several ports the one that API servers call `https`."""
    ports = [{"name": "metrics", "port": 1}, {"name": "https", "port": 6443}]
    assert parse_slices({"items": [slice_of({"addresses": ["10.0.0.1"]}, ports=ports)]})[0].port == 6443


def test_endpoints() -> None:
    """The deprecated object that every kubelet may read: ready addresses of all subsets."""
    document = {
        "subsets": [
            {
                "addresses": [{"ip": "10.0.0.12"}, {"ip": "10.0.0.11"}],
                "notReadyAddresses": [{"ip": "10.0.0.13"}],
                "ports": [{"name": "https", "port": 6443}],
            }
        ]
    }
    assert [endpoint.address for endpoint in parse_endpoints(document)] == ["10.0.0.11", "10.0.0.12"]


@pytest.mark.parametrize("parse", [parse_slices, parse_endpoints])
@given(document=JSON)
def test_anything_else_is_not_learned(parse: Any, document: Any) -> None:
    """Whatever a server sends: endpoints, or NotLearned with one line."""
    said = ""
    try:
        found = parse(document)
    except NotLearned as error:
        found, said = (), str(error)
    assert bool(found) is not bool(said)
    assert "\n" not in said
    assert all(isinstance(endpoint, Endpoint) for endpoint in found)


def test_kept_and_loaded(tmp_path: Path) -> None:
    """What is saved is loaded again, sorted; saving the same is no write."""
    state = tmp_path / "a" / "state"
    endpoints = [Endpoint("fd00::1", 6443), Endpoint("10.0.0.2", 7443)]
    assert load_learned(state) == ()
    assert save_learned(state, endpoints) is True
    assert load_learned(state) == tuple(sorted(endpoints))
    before = (state / LEARNED).stat()
    assert save_learned(state, reversed(endpoints)) is False
    assert (state / LEARNED).stat().st_mtime_ns == before.st_mtime_ns
    assert save_learned(state, endpoints[:1]) is True
    assert load_learned(state) == (endpoints[0],)
    assert [path.name for path in state.iterdir()] == [LEARNED]


@given(JSON.map(json.dumps) | st.text(max_size=20) | st.just("[" * 10000))
def test_a_damaged_file_is_no_file(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """It is a cache: the configuration stands in for it, and it is written anew."""
    state = tmp_path_factory.mktemp("state")
    (state / LEARNED).write_bytes(text.encode("utf-8", "replace"))
    assert load_learned(state) == ()
    assert save_learned(state, [Endpoint("10.0.0.1", 6443)]) is True


def test_a_node_without_a_certificate(tmp_path: Path) -> None:
    """No kubelet.conf yet, or none with a certificate: ConfigError naming the file."""
    kubelet = tmp_path / "kubelet.conf"
    with pytest.raises(ConfigError, match=r"kubelet\.conf"), node_prober(Config(), kubelet=kubelet):
        pass
    kubelet.write_text("users: []\n")
    with pytest.raises(ConfigError, match="no client certificate"), node_prober(Config(), kubelet=kubelet):
        pass
