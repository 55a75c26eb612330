"""The table's text, and what is read back from the kernel's description of it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiha.endpoint import Endpoint
from apiha.failfast import rules
from apiha.failfast.table import Breaker, Table, parse_table

FOUR, SIX = Endpoint("10.0.0.11", 6443), Endpoint("fd00::11", 7443)

endpoints = st.builds(
    Endpoint,
    st.one_of(st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str)),
    st.integers(1, 65535),
)


@given(st.lists(endpoints, max_size=40))
def test_a_refresh_names_each_control_plane_once_and_touches_nothing_else(listed: list[Endpoint]) -> None:
    """The sets of control planes are emptied and filled; every other set keeps its elements."""
    script = rules.refresh_script(listed)
    verbs = {tuple(line.split()[:2]) for line in script.splitlines()}
    assert verbs <= {("flush", "set"), ("flush", "map"), ("add", "element")}
    touched = re.findall(r"(?:set|map|element) (inet|ip|ip6) apiha (\S+)", script)
    assert {name for _, name in touched} == {"control_planes4", "control_planes6", "copies"}
    found = [tuple(part.split(" . ")) for part in re.findall(r"[0-9a-f:.]+ \. \d+", script)]
    assert sorted(found) == sorted({(e.address, str(e.port)) for e in listed})


def test_the_table_says_whose_it_is_and_how_it_was_made() -> None:
    """A comment holds the mode and a digest of the layout, which the control planes do not change."""
    script = rules.load_script([FOUR, SIX], "node")
    assert rules.marker("node", rules.layout("node")) in script
    assert rules.marker("node", rules.layout("node")) in rules.load_script([], "node")
    assert rules.layout("node") != rules.layout("pods")


@pytest.mark.parametrize("mode", ["node", "pods"])
def test_a_layout_tells_the_features(mode: rules.Mode) -> None:
    """Each combination has its own; that of another version, or for the other mode, tells none."""
    layouts = [rules.layout(mode, features) for features in rules.VARIANTS]
    assert [rules.features_of(mode, layout) for layout in layouts] == list(rules.VARIANTS)
    assert rules.features_of("pods" if mode == "node" else "node", layouts[0]) is None
    assert rules.features_of(mode, "0123456789ab") is None


def test_a_table_whose_copiers_are_gone_has_no_features_that_count() -> None:
    """It is to be loaded anew."""
    whole = Table("node", rules.layout("node"), frozenset(), (), knocks=True)
    assert whole.features("node") == rules.ALL
    assert Table("node", rules.layout("node"), frozenset(), ()).features("node") is None


@pytest.mark.parametrize("mode", ["node", "pods"])
def test_connection_tracking_is_named_only_to_forget(mode: rules.Mode) -> None:
    """Any `ct` switches it on. The policy comes before every verdict on a SYN, for each family and scope."""
    without = rules.load_script([FOUR, SIX], mode, rules.Features(forget=False))
    assert not re.search(r"\bct\b", without)
    script = rules.load_script([FOUR, SIX], mode)
    for scope in rules.scopes(mode):
        for version in (4, 6):
            chain = script.partition(f"chain {scope}{version}_question {{")[2].partition("}")[0]
            assert f'tcp flags & syn == syn ct timeout set "closed{version}"' in chain.splitlines()[2]


def test_pods_are_watched_in_forward_only_if_asked_for() -> None:
    """By breakers of their own: what a Pod does changes nothing for the node."""
    node, pods = (rules.load_script([FOUR], mode) for mode in ("node", "pods"))
    assert "hook forward" not in node
    assert "pods4_silent" not in node
    assert "hook forward" in pods
    forward = pods.partition("hook forward")[2].partition("}")[0]
    assert "goto pods4_question" in forward
    assert "node" not in forward


def test_every_set_that_packets_fill_has_a_limit() -> None:
    """Kernel memory is bounded."""
    sets = re.findall(r"set (\S+) \{([^}]*)\}", rules.load_script([FOUR], "pods"))
    dynamic = [body for name, body in sets if not name.startswith("control_planes")]
    assert len(dynamic) == 2 * 12 + 2 * 11
    assert all("size " in body and "dynamic" in body for body in dynamic)


def test_names_of_sets_and_chains_suit_old_kernels() -> None:
    """Up to 31 characters (NFT_NAME_MAXLEN was 32 until Linux 4.14)."""
    names = re.findall(r"(?:set|chain) (\S+) \{", rules.load_script([], "pods"))
    assert max(map(len, names)) < 32


def _document(*extra: dict[str, Any], comment: str | None = None) -> dict[str, Any]:
    about = {
        "chain": "about",
        "comment": comment or rules.marker("pods", "abc123"),
        "expr": [{"return": None}],
    }
    planes = {
        "name": "control_planes4",
        "elem": [{"concat": ["10.0.0.11", 6443]}, {"concat": ["10.0.0.12", 6443]}],
    }
    return {"nftables": [{"metainfo": {}}, {"table": {}}, {"set": planes}, {"rule": about}, *extra]}


def _set(name: str, **attributes: Any) -> dict[str, Any]:
    return {"set": {"name": name, "elem": [{"elem": {"val": {"concat": ["10.0.0.12", 6443]}, **attributes}}]}}


def test_the_state_of_each_breaker_is_read() -> None:
    """How long a control plane is silent, and the counters, for the node and its Pods apart."""
    table = parse_table(
        _document(
            _set("node4_silent", expires=3596),
            _set("node4_silences", counter={"packets": 1, "bytes": 60}),
            _set("node4_cut", counter={"packets": 3, "bytes": 60}),
            _set("pods4_refused", counter={"packets": 7, "bytes": 60}),
        )
    )
    assert table is not None
    assert (table.mode, table.layout) == ("pods", "abc123")
    one, two = Endpoint("10.0.0.11", 6443), Endpoint("10.0.0.12", 6443)
    assert table.breakers == (
        Breaker(one, "node"),
        Breaker(two, "node", 4, 1, 3, 0),
        Breaker(one, "pods"),
        Breaker(two, "pods", None, 0, 0, 7),
    )
    assert [str(breaker) for breaker in table.silent] == [
        "10.0.0.12:6443 silent for 4 s, 3 connections cut, 0 refused"
    ]


@pytest.mark.parametrize("comment", ["", "apiha", "apiha fail-fast", "mode node"])
def test_a_table_without_the_comment_is_not_apihas(comment: str) -> None:
    """It is never parsed further."""
    document = _document(comment=comment or "somebody else's")
    assert parse_table(document) is None
    assert parse_table({"nftables": []}) is None


@pytest.mark.parametrize(
    "document", [None, [], {}, {"nftables": 1}, {"nftables": [1]}, _document({"set": {"elem": []}})]
)
def test_what_is_no_answer_of_nft_is_an_error_of_one_line(document: Any) -> None:
    """Never anything but ValueError."""
    with pytest.raises(ValueError, match="not what `nft --json`"):
        parse_table(document)
