"""Slice in, slice out: properties of the mirrored EndpointSlices."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiha.endpoint import Endpoint
from apiha.slices import FAMILIES, ControlPlane, control_planes
from apiha.updater.health import Verdict
from apiha.updater.mirror import (
    LEADER_ANNOTATION,
    Target,
    agrees,
    desired,
    differs,
    foreign,
    held_back,
    plan,
    unready_endpoints,
)

TARGET = Target("kube-system", "apiserver")

ipv4 = st.integers(1, 12).map(lambda n: f"192.0.2.{n}")
ipv6 = st.integers(1, 12).map(lambda n: f"2001:db8::{n:x}")
tristate = st.sampled_from([None, True, False])
ports = st.sampled_from([6443, 6443, 6443, 7443])


@st.composite
def source_slices(draw: st.DrawFn, family: str | None = None) -> dict[str, Any]:
    """One `kubernetes` slice as the API allows it, absent fields included."""
    family = family or draw(st.sampled_from(FAMILIES))
    addresses = ipv6 if family == "IPv6" else ipv4
    endpoints: list[dict[str, Any]] = []
    for address in draw(st.lists(addresses, max_size=6)):
        conditions = {
            key: value for key in ("ready", "serving", "terminating") if (value := draw(tristate)) is not None
        }
        entry: dict[str, Any] = {"addresses": [address]}
        with_conditions: bool = draw(st.booleans())
        if conditions or with_conditions:
            entry["conditions"] = conditions
        if draw(st.booleans()):
            entry["nodeName"] = f"node-{address[-1]}"
        endpoints.append(entry)
    port = {"name": "https", "port": draw(ports), "protocol": "TCP"}
    other = {"name": "metrics", "port": 9090, "protocol": "TCP"}
    return {
        "metadata": {"name": f"kubernetes-{draw(st.integers(0, 99))}"},
        "addressType": family,
        "endpoints": endpoints or draw(st.sampled_from([None, []])),
        "ports": draw(st.sampled_from([[port], [other, port], [port, other]])),
    }


sources = st.lists(source_slices(), max_size=4)


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[dict[str, Any]], Verdict]:
    """Sources, and some health for the control planes in them (and for strangers)."""
    slices = draw(sources)
    endpoints = [plane.endpoint for plane in control_planes(slices)] + [Endpoint("198.51.100.1", 6443)]
    state = {endpoint: draw(st.sampled_from(["off", "alive", "unproven"])) for endpoint in endpoints}
    off = frozenset(e for e, s in state.items() if s == "off")
    return slices, Verdict(off, frozenset(e for e, s in state.items() if s == "alive"))


def addresses(item: dict[str, Any]) -> list[str]:
    """The addresses of a slice."""
    return [address for entry in item["endpoints"] for address in entry["addresses"]]


def as_stored(item: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    """A slice as the API server gives it back: with fields of its own, and without empty lists."""
    stored = {**item, "metadata": {"uid": "u", "resourceVersion": "7", **item["metadata"], **metadata}}
    if not stored["endpoints"]:
        stored["endpoints"] = None
    return stored


@given(situations())
def test_exactly_the_sources_addresses_are_mirrored(situation: tuple[list[dict[str, Any]], Verdict]) -> None:
    """Every control plane is in the slice of its family once, health or not, but for those on another port."""
    slices, health = situation
    planes = control_planes(slices)
    wanted = plan(TARGET, planes, health, "https")
    mirrored = [address for item in wanted.slices.values() for address in addresses(item)]
    assert len(mirrored) == len(set(mirrored))
    assert set(mirrored) == {p.endpoint.address for p in planes if p.endpoint not in wanted.other_port} & set(
        mirrored
    )
    assert set(wanted.mirrored) | set(wanted.other_port) == {plane.endpoint for plane in planes}
    assert not set(wanted.mirrored) & set(wanted.other_port)
    for name, item in wanted.slices.items():
        assert all((":" in address) == (item["addressType"] == "IPv6") for address in addresses(item))
        assert TARGET.slice_names[name] == item["addressType"]
        assert len(item["ports"]) == 1


@given(situations())
def test_a_slice_never_loses_its_last_ready_address_to_the_health_check(
    situation: tuple[list[dict[str, Any]], Verdict],
) -> None:
    """A family with a ready control plane in `kubernetes` has a ready one in the mirror, whatever failed."""
    slices, health = situation
    wanted = plan(TARGET, control_planes(slices), health, "https")
    without = plan(TARGET, control_planes(slices), Verdict(), "https")
    for name, item in wanted.slices.items():
        before = [entry for entry in without.slices[name]["endpoints"] if entry["conditions"]["ready"]]
        after = [entry for entry in item["endpoints"] if entry["conditions"]["ready"]]
        assert bool(before) == bool(after)
        assert all(entry in before for entry in after), "health only ever turns off"


@given(situations())
def test_what_is_off_is_neither_ready_nor_serving_where_another_is_alive(
    situation: tuple[list[dict[str, Any]], Verdict],
) -> None:
    """A failed address is unready exactly if a ready one of its family is alive; an address that is alive
    stays on.
    """
    slices, health = situation
    planes = control_planes(slices)
    wanted = plan(TARGET, planes, health, "https")
    for plane in planes:
        if plane.endpoint in wanted.other_port:
            continue
        entry = next(
            entry
            for entry in wanted.slices[TARGET.slice_name(plane.family)]["endpoints"]
            if entry["addresses"] == [plane.endpoint.address]
        )
        peers = [p for p in planes if p.family == plane.family and p.endpoint not in wanted.other_port]
        counted = any(p.ready and p.endpoint in health.alive for p in peers)
        off = plane.endpoint in health.off and counted
        assert entry["conditions"]["ready"] == (plane.ready and not off)
        assert entry["conditions"]["serving"] == (plane.serving and not off)
        assert entry["conditions"].get("terminating") == plane.terminating


@given(sources, st.randoms(use_true_random=False))
def test_the_order_of_what_comes_in_does_not_matter(slices: list[dict[str, Any]], rng: Any) -> None:
    """Source slices and their endpoints in any order give the same bytes: no write for nothing."""
    shuffled = [dict(item) for item in slices]
    rng.shuffle(shuffled)
    for item in shuffled:
        item["endpoints"] = list(item["endpoints"] or [])
        rng.shuffle(item["endpoints"])
    one = plan(TARGET, control_planes(slices), Verdict(), "https")
    other = plan(TARGET, control_planes(shuffled), Verdict(), "https")
    ready = [
        [(e["addresses"], e["conditions"]["ready"]) for e in s["endpoints"]] for s in one.slices.values()
    ]
    assert ready == [
        [(e["addresses"], e["conditions"]["ready"]) for e in s["endpoints"]] for s in other.slices.values()
    ]
    if len({plane.endpoint for plane in control_planes(slices)}) == sum(
        len(s["endpoints"] or []) for s in slices
    ):
        assert one == other  # without duplicates nothing at all depends on the order


@given(situations())
def test_what_was_written_differs_from_nothing(situation: tuple[list[dict[str, Any]], Verdict]) -> None:
    """A slice that came back from the API server as it was sent needs no write; another leader's does."""
    slices, health = situation
    wanted = plan(TARGET, control_planes(slices), health, "https")
    mine = desired(wanted, {}, TARGET, "me/1")
    for item in mine.values():
        assert not differs(as_stored(item), item)
        theirs = {**item["metadata"], "annotations": {LEADER_ANNOTATION: "you/2"}}
        assert differs(as_stored({**item, "metadata": theirs}), item)


@given(situations(), st.data())
def test_every_hand_edit_of_our_fields_is_noticed(
    situation: tuple[list[dict[str, Any]], Verdict], data: st.DataObject
) -> None:
    """An edited endpoint, port, label or address type differs; labels and annotations of others do not."""
    slices, health = situation
    for item in desired(plan(TARGET, control_planes(slices), health, "https"), {}, TARGET, "me/1").values():
        stored = as_stored(item)
        labels = {**item["metadata"]["labels"], "team": "a"}
        annotations = {**item["metadata"]["annotations"], "note": "b"}
        theirs = {**stored, "metadata": {**stored["metadata"], "labels": labels, "annotations": annotations}}
        assert not differs(theirs, item)
        key = data.draw(st.sampled_from(sorted(item["metadata"]["labels"])))
        edited = data.draw(
            st.sampled_from(
                [
                    {**stored, "endpoints": [*(stored["endpoints"] or []), {"addresses": ["198.51.100.9"]}]},
                    {
                        **stored,
                        "endpoints": (stored["endpoints"] or [None])[:-1]
                        or [{"addresses": ["198.51.100.9"]}],
                    },
                    {**stored, "ports": []},
                    {**stored, "ports": [{**stored["ports"][0], "port": 1}]},
                    {**stored, "ports": [{**stored["ports"][0], "appProtocol": "http"}]},
                    {**stored, "addressType": "FQDN"},
                    {**stored, "metadata": {**stored["metadata"], "labels": {**labels, key: "else"}}},
                    {**stored, "metadata": {**stored["metadata"], "annotations": None}},
                ]
            )
        )
        assert differs(edited, item)


def test_nothing_known_is_no_reason_to_change_anything() -> None:
    """Without any control plane there is nothing to write, even if slices of ours exist."""
    wanted = plan(TARGET, (), Verdict(), "https")
    live = {"apiserver": {"metadata": {"name": "apiserver"}, "addressType": "IPv4"}}
    assert desired(wanted, live, TARGET, "me/1") == {}


def test_a_family_that_is_gone_is_emptied_while_the_other_goes_on() -> None:
    """Our IPv6 slice keeps its ports and loses its endpoints when `kubernetes` has only IPv4 ones."""
    planes = [ControlPlane(Endpoint("192.0.2.1", 6443), ready=True, serving=True)]
    ports = [{"name": "https", "port": 6443, "protocol": "TCP"}]
    live = {
        "apiserver-ipv6": {
            "metadata": {"name": "apiserver-ipv6"},
            "addressType": "IPv6",
            "endpoints": [{"addresses": ["2001:db8::1"]}],
            "ports": ports,
        }
    }
    slices = desired(plan(TARGET, planes, Verdict(), "https"), live, TARGET, "me/1")
    assert slices["apiserver-ipv6"]["endpoints"] == []
    assert slices["apiserver-ipv6"]["ports"] == ports
    assert addresses(slices["apiserver"]) == ["192.0.2.1"]


@pytest.mark.parametrize(
    ("conditions", "ready", "serving"),
    [
        (None, True, True),
        ({}, True, True),
        ({"ready": False}, False, False),
        ({"ready": True}, True, True),
        ({"ready": False, "serving": True, "terminating": True}, False, True),
    ],
)
def test_absent_conditions_mean_what_the_api_says(
    conditions: dict[str, bool] | None, ready: bool, serving: bool
) -> None:
    """An absent `ready` is true, an absent `serving` is what `ready` is (discovery.k8s.io/v1)."""
    entry = {"addresses": ["192.0.2.1"], "conditions": conditions}
    (plane,) = control_planes([{"endpoints": [entry], "ports": [{"name": "https", "port": 6443}]}])
    assert (plane.ready, plane.serving) == (ready, serving)


def test_an_address_in_two_slices_is_ready_if_one_says_so() -> None:
    """While an address moves from slice to slice it is in both."""
    ports = [{"name": "https", "port": 6443}]
    one = {"endpoints": [{"addresses": ["192.0.2.1"], "conditions": {"ready": False}}], "ports": ports}
    other = {"endpoints": [{"addresses": ["192.0.2.1"], "conditions": {"ready": True}}], "ports": ports}
    for both in ([one, other], [other, one]):
        (plane,) = control_planes(both)
        assert plane.ready


def test_what_is_no_address_is_left_out() -> None:
    """Names, loopback-like nonsense, and slices without a TCP port add nothing, and break nothing."""
    ports = [{"name": "https", "port": 6443}]
    assert (
        control_planes([{"endpoints": [{"addresses": ["cp.example.org", "0.0.0.0"]}], "ports": ports}]) == ()
    )
    assert control_planes([{"endpoints": [{"addresses": ["192.0.2.1"]}], "ports": None}]) == ()
    assert (
        control_planes(
            [{"endpoints": [{"addresses": ["192.0.2.1"]}], "ports": [{"port": 1, "protocol": "UDP"}]}]
        )
        == ()
    )


def test_the_port_of_most_wins_and_the_rest_is_named() -> None:
    """A slice has one port for all its endpoints: control planes on another one are left out and told."""
    planes = [
        ControlPlane(Endpoint("192.0.2.1", 7443), ready=True, serving=True),
        ControlPlane(Endpoint("192.0.2.2", 6443), ready=True, serving=True),
        ControlPlane(Endpoint("192.0.2.3", 6443), ready=True, serving=True),
    ]
    wanted = plan(TARGET, planes, Verdict(), "https")
    assert wanted.slices["apiserver"]["ports"] == [{"name": "https", "port": 6443, "protocol": "TCP"}]
    assert wanted.other_port == (Endpoint("192.0.2.1", 7443),)


def test_a_service_port_without_a_name_has_none_in_the_slice() -> None:
    """kube-proxy matches the ports of Service and slice by name, the empty one included."""
    planes = [ControlPlane(Endpoint("192.0.2.1", 6443), ready=True, serving=True)]
    item = plan(TARGET, planes, Verdict(), None).slices["apiserver"]
    assert item["ports"] == [{"port": 6443, "protocol": "TCP"}]
    assert not differs({**item, "ports": [{"name": "", "port": 6443, "protocol": "TCP"}]}, item)


@given(situations())
def test_a_new_leader_reads_back_what_was_off(situation: tuple[list[dict[str, Any]], Verdict]) -> None:
    """What the mirrored slices call unready is what the next leader starts with as off."""
    slices, health = situation
    wanted = plan(TARGET, control_planes(slices), health, "https")
    assert unready_endpoints(wanted.slices.values()) == set(wanted.mirrored) - set(wanted.ready)


def test_slices_of_others_are_told_by_name_and_maker() -> None:
    """Only our two names are ours."""
    label = {"labels": {"endpointslice.kubernetes.io/managed-by": "someone"}}
    live: dict[str, dict[str, Any]] = {
        "apiserver": {"metadata": {"name": "apiserver", **label}},
        "apiserver-ipv6": {"metadata": {"name": "apiserver-ipv6"}},
        "apiserver-x": {"metadata": {"name": "apiserver-x", **label}},
        "b": {"metadata": {"name": "b"}},
    }
    assert foreign(live, TARGET) == {"apiserver-x": "someone", "b": "somebody unnamed"}


def test_a_standby_judges_addresses_and_ports_and_not_health() -> None:
    """Conditions and the leader's mark may differ; an address, the port or a label may not, nor a slice be absent."""
    planes = [ControlPlane(Endpoint(f"192.0.2.{n}", 6443), ready=True, serving=True) for n in (1, 2)]
    off = Verdict(off=frozenset({planes[0].endpoint}), alive=frozenset({planes[1].endpoint}))
    live = desired(plan(TARGET, planes, off, "https"), {}, TARGET, "somebody/1")
    assert live["apiserver"]["endpoints"][0]["conditions"]["ready"] is False
    wanted = plan(TARGET, planes, Verdict(), "https")
    assert agrees(wanted, live, TARGET)
    assert not agrees(wanted, {}, TARGET)
    assert not agrees(plan(TARGET, planes[:1], Verdict(), "https"), live, TARGET)
    assert not agrees(plan(TARGET, planes, Verdict(), "api"), live, TARGET)
    assert not agrees(plan(TARGET, [], Verdict(), "https"), live, TARGET)
    unlabelled = {**live["apiserver"], "metadata": {"name": "apiserver"}}
    assert not agrees(wanted, {"apiserver": unlabelled}, TARGET)
    left = desired(plan(TARGET, planes, off, "https"), {}, TARGET, "somebody/1")["apiserver"]
    left = {**left, "metadata": {**left["metadata"], "name": "apiserver-ipv6"}, "addressType": "IPv6"}
    assert not agrees(wanted, {**live, "apiserver-ipv6": left}, TARGET)


@given(situations(), st.data())
def test_a_drain_never_takes_the_last_ready_address(
    situation: tuple[list[dict[str, Any]], Verdict], data: st.DataObject
) -> None:
    """Whoever is drained, and whatever is off: a family that would have a ready address without drains has one."""
    slices, health = situation
    planes = control_planes(slices)
    known = [plane.endpoint.address for plane in planes] + ["198.51.100.1"]
    drained = data.draw(st.sets(st.sampled_from(known)))
    without = plan(TARGET, planes, health, "https")
    wanted = plan(TARGET, planes, health, "https", drained)
    assert wanted.mirrored == without.mirrored
    assert set(wanted.ready) <= set(without.ready)
    for family in FAMILIES:

        def of_family(endpoints: tuple[Endpoint, ...], six: bool = family == "IPv6") -> set[Endpoint]:
            return {endpoint for endpoint in endpoints if endpoint.is_ipv6 == six}

        assert bool(of_family(without.ready)) == bool(of_family(wanted.ready))
        others = {endpoint for endpoint in of_family(without.ready) if endpoint.address not in drained}
        # All that are not drained stay; the drained ones are used only if there is no other.
        assert of_family(wanted.ready) == (others or of_family(without.ready))
    assert {e.address for e in (*wanted.drained, *wanted.drained_in_use)} == drained & {
        endpoint.address for endpoint in wanted.mirrored
    }
    assert not set(wanted.drained) & set(wanted.drained_in_use)
    assert held_back(wanted.slices.values()) >= {
        endpoint.address
        for endpoint in wanted.drained
        if endpoint not in health.off and next(p for p in planes if p.endpoint == endpoint).serving
    }


def test_a_drained_address_still_serves() -> None:
    """Unready at once; serving as long as it answers, since its connections go on."""
    planes = [ControlPlane(Endpoint(f"192.0.2.{n}", 6443), ready=True, serving=True) for n in (1, 2)]
    conditions = [
        entry["conditions"]
        for entry in plan(TARGET, planes, Verdict(), "https", {"192.0.2.1"}).slices["apiserver"]["endpoints"]
    ]
    assert conditions == [{"ready": False, "serving": True}, {"ready": True, "serving": True}]
