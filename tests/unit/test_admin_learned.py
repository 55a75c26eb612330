"""How many nodes know of a control plane: whom to ask, what is counted, and how it is said."""

from __future__ import annotations

from datetime import datetime, timezone
from urllib.parse import parse_qs, urlsplit

import pytest

from apiha.admin import learned as module
from apiha.admin.learned import Count, Learned, asked_of, log_path
from apiha.admin.objects import Pod, read_pod
from apiha.admin.planes import Plane, Planes
from apiha.admin.show import planes_json, planes_table
from apiha.drained import Drain
from apiha.endpoint import Endpoint
from apiha.known import Known

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=timezone.utc)
A, B, C = (Endpoint(f"10.0.0.{number}", 6443) for number in (11, 12, 13))
PLANES = Planes(
    (
        Plane(A, present=True, ready=True),
        Plane(B, present=True, ready=False, drain=Drain(B.address, NOW)),
        Plane(C, present=True, ready=True),
    )
)
FOLLOWED = Known.of([A, B, C], [B.address])
BEHIND = Known.of([A, B], [C.address])  # C came back, B went, and neither has arrived


def pod(node: str, *, ready: bool = True, leaving: bool = False, arguments: tuple[str, ...] = ()) -> Pod:
    """The installer's on this node."""
    return Pod(node, f"apiha-installer-{node}", ready, "0.1.0", leaving=leaving, arguments=arguments)


def cells(learned: Learned) -> list[str]:
    """The last column."""
    head, *rows = planes_table(PLANES, learned, NOW).splitlines()[:4]
    return [row[head.index("LEARNED") :].strip() for row in rows]


def test_those_that_know_are_counted() -> None:
    """The address of one in service; of a drained one that it is drained; of one that is back, who has not heard."""
    found = Learned((FOLLOWED, FOLLOWED, BEHIND), {"worker-4": "refused"}, ready=4)
    assert [found.of(plane) for plane in PLANES.planes] == [Count(3, 0), Count(3, 2), Count(2, 1)]
    assert cells(found) == ["3 of 4", "2 of 4 as drained", "2 of 4, 1 still as drained"]
    document = planes_json(PLANES, found, NOW)
    assert [
        (each["learned_by_nodes"], each["learned_as_drained_by_nodes"]) for each in document["control_planes"]
    ] == [(3, 0), (3, 2), (2, 1)]
    assert document["learned"] == {
        "nodes_asked": 4,
        "nodes_with_ready_installer": 4,
        "nodes_with_unready_installer": 0,
        "nodes_unread": {"worker-4": "refused"},
        "why_unknown": None,
    }


def test_another_port_is_another_address() -> None:
    """Who would connect to where nobody listens any more has not learned; the drain is the machine's."""
    moved = Plane(Endpoint(A.address, 443), present=True, ready=True, drain=Drain(A.address, NOW))
    assert Learned((Known.of([A], [A.address]),), ready=1).of(moved) == Count(0, 1)


@pytest.mark.parametrize(
    ("learned", "says"),
    [
        (Learned(), "no node has the installer (`apiha manifests --installer`)"),
        (Learned(problem="/api/v1/pods cannot be read: forbidden"), "/api/v1/pods cannot be read: forbidden"),
        (Learned(unready=2), "the installer is not ready on any of its 2 nodes"),
        (Learned(unread={"b": "no", "a": "no"}, ready=2), "a, b (no)"),
        (Learned(ready=2), "no log could be read in time"),
    ],
)
def test_where_nobody_says_anything_there_is_no_number_and_a_reason(learned: Learned, says: str) -> None:
    """`-`, not 0; one line below the table, and in JSON."""
    assert cells(learned) == ["-", "-", "-"]
    (line,) = planes_table(PLANES, learned, NOW).splitlines()[4:]
    assert line.startswith(f"LEARNED is not known: {says}")
    document = planes_json(PLANES, learned, NOW)
    assert str(document["learned"]["why_unknown"]).startswith(says)
    assert {each["learned_by_nodes"] for each in document["control_planes"]} == {None}
    assert {each["learned_as_drained_by_nodes"] for each in document["control_planes"]} == {None}


def test_what_a_number_leaves_out_is_said() -> None:
    """Where it comes from; whose log says nothing, the first reason only; who was not asked."""
    unread = {f"worker-{number}": f"reason {number}" for number in (5, 4, 2, 3, 1)}
    where, unknown, uncounted = Learned((FOLLOWED,) * 2, unread, ready=9, unready=1).lines()
    assert where.startswith(
        "LEARNED: how many of 7 of the 9 nodes whose installer is ready (the others were not asked) know"
    )
    assert unknown == (
        "counted as knowing nothing: worker-1, worker-2, worker-3 and 2 more (the first: reason 1)"
    )
    assert uncounted == "not counted: 1 node whose installer is not ready"
    assert Learned((FOLLOWED,), ready=1).lines()[0].startswith("LEARNED: how many of the 1 node whose")
    assert len(Learned((FOLLOWED,), ready=1).lines()) == 1


def test_ready_installers_are_asked_and_those_that_uninstall_are_none() -> None:
    """One Pod for each node, during a rollout too."""
    pods = [
        pod("a", leaving=True),
        pod("a"),
        pod("b", ready=False),
        pod("c", arguments=("--host=x", "--remove")),
        pod("d", arguments=("--host=x",)),
    ]
    asked, found = asked_of(pods)
    assert {(each.node, each.leaving) for each in asked} == {("a", False), ("d", False)}
    assert (found.ready, found.unready, found.asked) == (2, 1, 0)
    assert asked_of([]) == ((), Learned())


def test_of_a_large_fleet_a_sample_is_asked_that_no_naming_distorts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same nodes each time, in whatever order the API gives them; not those whose names come first."""
    pods = [pod(f"{zone}-{number:03}") for zone in "abcd" for number in range(250)]
    asked, found = asked_of(pods)
    assert (len(asked), found.ready) == (500, 1000)
    assert asked == asked_of(reversed(pods))[0]
    for zone in "abcd":
        assert 90 < sum(each.node.startswith(zone) for each in asked) < 160
    monkeypatch.setattr(module, "MOST", 4)
    assert asked_of(pods)[0] == asked[:4]


def test_the_end_of_the_log_is_asked_for_and_not_more() -> None:
    """Of the installer's container, whatever else a webhook put into the Pod."""
    url = urlsplit(log_path(Pod("n", "apiha-installer-x", True, None, namespace="tools")))
    assert url.path == "/api/v1/namespaces/tools/pods/apiha-installer-x/log"
    assert {key: value for key, [value] in parse_qs(url.query).items()} == {
        "container": "installer",
        "sinceSeconds": "900",
        "tailLines": "20",
        "limitBytes": "65536",
    }


def test_a_pods_arguments_are_read() -> None:
    """Those of its first container; of a Pod without any, none."""
    item = {"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"args": ["--remove", 1]}]}}
    found = read_pod(item)
    assert found is not None
    assert found.arguments == ("--remove", "1")
    item["spec"] = {"nodeName": "n", "containers": [{"args": "--remove"}]}
    found = read_pod(item)
    assert found is not None
    assert found.arguments == ()
