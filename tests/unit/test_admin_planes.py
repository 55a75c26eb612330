"""Which control plane may be drained, what is said of them, and what an API server's metrics say."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiha.admin.cluster import min_sync_of
from apiha.admin.learned import Learned
from apiha.admin.planes import Connections, Planes, connections_of, planes_of, refusal, warnings
from apiha.admin.show import planes_json, planes_table
from apiha.drained import Drain, Drained
from apiha.endpoint import Endpoint
from apiha.slices import ControlPlane

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=timezone.utc)
A, B, C = "10.0.0.11", "10.0.0.12", "10.0.0.13"


def plane(address: str, *, ready: bool = True) -> ControlPlane:
    """One that a slice names."""
    return ControlPlane(Endpoint(address, 6443), ready=ready, serving=True)


def seen(
    ready: dict[str, bool], drained: tuple[str, ...] = (), present: tuple[str, ...] | None = None
) -> Planes:
    """What the cluster says: the mirrored slice, who is drained, and whom `kubernetes` names (all of the slice)."""
    source = [plane(address) for address in (present if present is not None else tuple(ready))]
    mirrored = [plane(address, ready=each) for address, each in ready.items()]
    return planes_of(source, mirrored, Drained(tuple(map(Drain, drained))), 6443)


@pytest.mark.parametrize(
    ("planes", "says"),
    [
        (seen({A: True, B: True, C: True}), None),
        (seen({A: True, B: True}), None),
        (seen({A: False, B: True}), None),
        (seen({A: False, B: True}, (A,)), None),  # again
        (seen({A: True}), f"{A} is the last ready control plane: "),
        (seen({A: True, B: False, C: True}, (B, C)), f"({B} is drained, {C} is drained)"),
        (seen({A: True, B: False}), f"({B} is not ready)"),
        (seen({A: True, B: False}, present=(A,)), f"({B} is gone)"),
        (seen({A: True, "2001:db8::1": True}), f"{A} is the last ready control plane"),
        (seen({B: True, C: True}), f"{A} is not a control plane of this cluster (known: {B}, {C})"),
        (seen({}), "(known: none)"),
    ],
)
def test_the_last_ready_one_and_strangers_are_refused(planes: Planes, says: str | None) -> None:
    """Only one whose new connections another one of its family can take is drained."""
    why = refusal(planes, A)
    assert (why is None) if says is None else (why is not None and says in why)


def test_where_none_is_ready_nobody_is_called_the_last_ready_one() -> None:
    """As where no updater runs: the one that was asked for is as little ready as the others."""
    assert refusal(seen({A: False, B: False}), A) == (
        f"no undrained control plane is ready in the Service kube-system/apiserver ({A} is not ready, {B} is not "
        "ready): does the updater run (`kubectl -n kube-system get pods,leases`)? Fix one first"
    )


@given(st.dictionaries(st.sampled_from([A, B, C]), st.booleans()), st.sets(st.sampled_from([A, B, C])))
def test_whoever_is_drained_leaves_one_that_takes_connections(
    ready: dict[str, bool], drained: set[str]
) -> None:
    """If a drain is allowed that is not there yet, one remains that is ready and not drained."""
    planes = seen(ready, tuple(sorted(drained)))
    for address in {A, B, C} - drained:
        if refusal(planes, address) is None:
            assert any(each and other not in {*drained, address} for other, each in ready.items())


def test_a_drained_machine_that_is_gone_is_still_listed() -> None:
    """No slice names it any more; the annotation does."""
    planes = seen({B: True, C: True}, (A,))
    table = planes_table(planes, Learned(), NOW).splitlines()
    assert table[1].split()[:3] == ["10.0.0.11:6443", "gone", "yes"]
    first = planes_json(planes, Learned(), NOW)["control_planes"][0]
    assert (first["address"], first["present"], first["ready"], first["drained"]) == (A, False, False, True)


def test_what_somebody_should_look_at() -> None:
    """A forgotten drain, one that is not followed, one that is not ready, what cannot be read; a healthy one is not."""
    old = Drained((Drain(A, NOW - timedelta(days=9)), Drain(B, NOW)), ("'x' is not an IPv4 or IPv6 address",))
    planes = planes_of([plane(B), plane(C)], [plane(B), plane(C, ready=False)], old, 6443)
    said = warnings(planes, NOW)
    assert [line.partition(" ")[0] for line in said] == ["the", A, B, C]
    assert "drained since 2026-11-15, for more than 7 days, and is gone" in said[1]
    assert "undrain 10.0.0.11" in said[1]
    assert warnings(seen({A: True, B: False}, (B,)), NOW) == []


METRICS = """\
# HELP apiserver_current_inflight_requests [STABLE] Maximal number of currently used inflight request limit
# TYPE apiserver_current_inflight_requests gauge
apiserver_current_inflight_requests{request_kind="mutating"} 1
apiserver_current_inflight_requests{request_kind="readOnly"} 3
apiserver_longrunning_requests{resource="pods",scope="cluster",verb="WATCH"} 12
apiserver_longrunning_requests{resource="nodes",scope="cluster",verb="WATCH"} 2e+00
apiserver_longrunning_requests{resource="pods",scope="resource",subresource="exec",verb="CONNECT"} 1
apiserver_request_total{code="200",verb="WATCH"} 99
"""


def test_what_an_api_server_is_doing_is_read_from_its_metrics() -> None:
    """Watches, other long requests and short ones; of a text without them nothing."""
    assert connections_of(METRICS) == Connections(watches=14, other_long=1, short=4)
    assert connections_of("no metrics at all") == Connections(0, 0, 0)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (
            "kind: KubeProxyConfiguration\niptables: {minSyncPeriod: 0s}\nnftables: {minSyncPeriod: 1m2.5s}",
            62.5,
        ),
        ("kind: KubeProxyConfiguration\nipvs: {minSyncPeriod: 500ms}", 0.5),
        ("kind: KubeProxyConfiguration\niptables: null", 0.0),
        ("kind: Config\niptables: {minSyncPeriod: 9s}", 0.0),
        ("{", 0.0),
        ("kind: !!bool KubeProxyConfiguration", 0.0),
        ("[]", 0.0),
    ],
)
def test_how_long_kube_proxy_collects_changes(text: str, seconds: float) -> None:
    """The longest of its modes; what cannot be read counts as nothing, for which the default stands in."""
    assert min_sync_of(text) == seconds
