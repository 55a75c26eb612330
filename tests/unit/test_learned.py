"""What is read of the API server's answers, and kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiha.config import Config
from apiha.endpoint import Endpoint
from apiha.errors import ConfigError
from apiha.node.learned import (
    LEARNED,
    load_learned,
    node_prober,
    save_learned,
)

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
