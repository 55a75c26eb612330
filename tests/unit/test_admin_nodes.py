"""All nodes as the API tells of them: what is read, and in which order they are shown."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from apiha.admin.installer import Installers, by_node, last_words
from apiha.admin.nodes import Fleet, fleet_of
from apiha.admin.objects import (
    DaemonSet,
    Lease,
    Node,
    Pod,
    PodEvent,
    read_daemon_set,
    read_event,
    read_lease,
    read_node,
    read_pod,
)
from apiha.admin.show import nodes_json, nodes_table

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=timezone.utc)


def node(name: str, *, ready: str = "True", kubelet: str | None = "v1.36.2", cordoned: bool = False) -> Node:
    """One that is well unless said otherwise."""
    reason = "" if ready == "True" else "NodeStatusUnknown"
    return Node(name, ready, reason, kubelet, cordoned, control_plane=False)


def lease(name: str, seconds: float = 3.0) -> Lease:
    """Renewed that long ago."""
    return Lease(name, NOW - timedelta(seconds=seconds))


def proxy(name: str, *, ready: bool = True, version: str | None = "v1.36.2") -> Pod:
    """The kube-proxy of a node."""
    return Pod(name, f"kube-proxy-{name}", ready, version)


def fleet(
    *nodes: Node, leases: list[Lease], proxies: list[Pod], installers: Installers | None = None
) -> Fleet:
    """All of it, judged."""
    return fleet_of(nodes, leases, proxies, installers or Installers(), NOW)


def judged(*nodes: Node, leases: list[Lease], proxies: list[Pod]) -> list[tuple[str, tuple[str, ...]]]:
    """Names and problems, in the order in which they are shown."""
    found = fleet(*nodes, leases=leases, proxies=proxies)
    return [(report.node.name, report.problems) for report in found.reports]


def test_what_a_node_says_of_itself_does_not_draw_on_the_terminal() -> None:
    """A kubelet may write whatever it likes into its Node, and a container into its last words."""
    evil = "v1\n\x1b[31mworker-2 \u202eTrue"
    status = {
        "nodeInfo": {"kubeletVersion": evil},
        "conditions": [{"type": "Ready", "status": "False\x07", "reason": evil}],
    }
    found = read_node({"metadata": {"name": "worker-1"}, "status": status})
    assert found == Node("worker-1", "False", "v1 [31mworker-2 True", "v1 [31mworker-2 True", False, False)
    waiting = {"state": {"waiting": {"reason": evil, "message": evil}}}
    pod = read_pod(
        {
            "metadata": {"name": "p", "namespace": "n"},
            "spec": {"nodeName": "worker-1", "containers": [{"image": "i:1\x1b[0m"}]},
            "status": {"containerStatuses": [waiting]},
        }
    )
    assert pod is not None
    assert (pod.trouble, pod.version) == ("v1 [31mworker-2 True: v1 [31mworker-2 True", "1[0m")


def test_those_that_need_a_look_come_first() -> None:
    """Not ready, then a Lease that is not renewed, then kube-proxy, then versions, then cordoned, then the rest."""
    names = [
        "a-fine",
        "b-cordoned",
        "c-kubelet",
        "d-proxy-old",
        "e-no-proxy",
        "f-stale",
        "g-lost",
        "h-fine",
        "i-fine",
    ]
    nodes = [
        node(
            name,
            ready="Unknown" if name == "g-lost" else "True",
            kubelet="v1.35.0" if name == "c-kubelet" else "v1.36.2",
            cordoned=name == "b-cordoned",
        )
        for name in names
    ]
    leases = [lease(name, 300.0 if name in ("f-stale", "g-lost") else 3.0) for name in names]
    proxies = [
        proxy(name, version="v1.34.1" if name == "d-proxy-old" else "v1.36.2")
        for name in names
        if name != "e-no-proxy"
    ]
    found = judged(*nodes, leases=leases, proxies=proxies)
    assert [name for name, _ in found] == [
        *("g-lost", "f-stale", "e-no-proxy", "c-kubelet", "d-proxy-old", "b-cordoned"),
        *("a-fine", "h-fine", "i-fine"),
    ]
    said = dict(found)
    assert said["g-lost"] == ("Ready is Unknown (NodeStatusUnknown)", "its Lease was last renewed 5m ago")
    assert said["e-no-proxy"] == ("no kube-proxy Pod",)
    assert said["c-kubelet"] == ("kubelet is v1.35.0, most are v1.36.2",)
    assert said["d-proxy-old"] == ("kube-proxy is v1.34.1, most are v1.36.2",)
    assert said["a-fine"] == ()


def test_where_no_kube_proxy_is_to_be_seen_none_is_missed() -> None:
    """It may be a service of the node, or another Service proxy altogether."""
    assert judged(node("a"), node("b"), leases=[lease("a"), lease("b")], proxies=[]) == [("a", ()), ("b", ())]


def test_a_ready_pod_counts_while_an_old_one_ends() -> None:
    """During a rollout a node may have two."""
    found = judged(node("a"), leases=[lease("a")], proxies=[proxy("a"), proxy("a", ready=False)])
    assert found == [("a", ())]


def test_of_a_node_that_does_not_report_its_pods_say_nothing() -> None:
    """Whoever looks at it needs the cause, not what follows from it."""
    found = judged(
        *(node("a", ready="Unknown"), node("b")),
        leases=[lease("a", 300.0), lease("b")],
        proxies=[proxy("a", ready=False), proxy("b")],
    )
    assert found[0] == ("a", ("Ready is Unknown (NodeStatusUnknown)", "its Lease was last renewed 5m ago"))


def test_a_wrong_clock_is_doubted() -> None:
    """Ready nodes whose Leases are all old, or of the future: it is this machine. One fresh Lease, and it is not."""

    def doubt(*ages: float) -> str:
        nodes = [node(str(number)) for number in range(len(ages))]
        leases = [lease(str(number), age) for number, age in enumerate(ages)]
        return " ".join(fleet(*nodes, leases=leases, proxies=[]).warnings)

    assert "this machine's clock is ahead" in doubt(3600, 3605)
    assert "kube-controller-manager does not run" in doubt(3600)
    assert "the newest Lease is 60m in the future" in doubt(-3600, -3599)
    assert doubt(3600, 5) == doubt(-3, 2) == doubt() == ""


def test_table_and_json_say_the_same() -> None:
    """A line for each node, and the number of those to look at; no column of an installer that is not there."""
    found = fleet(node("b"), node("a", ready="False"), leases=[lease("b")], proxies=[proxy("b")])
    lines = nodes_table(found).splitlines()
    assert lines[0].split() == ["NODE", "ROLE", "READY", "LEASE", "KUBELET", "KUBE-PROXY", "LOOK", "AT"]
    assert lines[1].split()[:4] == ["a", "worker", "False", "-"]
    assert lines[2].split()[:4] == ["b", "worker", "True", "3s"]
    assert lines[-1] == "2 nodes, 1 to look at"
    document = nodes_json(found)
    assert [each["name"] for each in document["nodes"]] == ["a", "b"]
    assert document["nodes"][1]["lease_age_seconds"] == 3.0
    assert document["nodes"][1]["problems"] == []
    assert document["nodes"][1]["installer"] is None
    one = nodes_table(fleet(node("b"), leases=[lease("b")], proxies=[])).splitlines()
    assert one[-1] == "1 node, 0 to look at"


# ------------------------------------------------------------------------------------------------ the installer

SET = DaemonSet("kube-system", "apiha-installer", "0.2.0", ("--vip=10.96.0.100",), wanted=1)


def report(name: str, *, ready: bool = True, version: str = "0.2.0", trouble: str = "") -> Pod:
    """The installer's Pod of a node."""
    return Pod(name, f"apiha-installer-{name}", ready, version, trouble=trouble)


def installed(*pods: Pod, said: dict[str, str] | None = None, wanted: DaemonSet = SET) -> Fleet:
    """Nodes of which nothing else is wrong, one for each Pod; `said` by the Events of their Pods."""
    events = {("kube-system", f"apiha-installer-{name}"): text for name, text in (said or {}).items()}
    names = sorted({pod.node for pod in pods})
    return fleet(
        *map(node, names),
        leases=[lease(name) for name in names],
        proxies=[],
        installers=Installers((wanted,), by_node(pods), events),
    )


def test_the_installers_pods_say_how_their_nodes_are() -> None:
    """Not ready with the reason of the probe or of the container; another version than wanted; well."""
    found = installed(
        report("a-well"),
        report("b-older", version="0.1.0"),
        report("c-probe", ready=False),
        report("d-crash", ready=False, trouble="CrashLoopBackOff: exit code 5: --vip: no"),
        report("e-nothing", ready=False),
        report("f-starts", ready=False, trouble="ContainerCreating"),
        said={
            "c-probe": "none of the 3 control planes is ready or alive",
            "d-crash": "Back-off restarting failed container",
            "f-starts": "hostPath type check failed: /run/dbus is not a directory",
        },
    )
    assert [(each.node.name, each.problems) for each in found.reports] == [
        ("c-probe", ("installer: none of the 3 control planes is ready or alive",)),
        ("d-crash", ("installer: CrashLoopBackOff: exit code 5: --vip: no",)),
        (
            "e-nothing",
            (
                "installer: not ready; its log says why: kubectl -n kube-system logs apiha-installer-e-nothing",
            ),
        ),
        ("f-starts", ("installer: hostPath type check failed: /run/dbus is not a directory",)),
        ("b-older", ("installer is 0.1.0, its DaemonSet wants 0.2.0",)),
        ("a-well", ()),
    ]
    table = nodes_table(found).splitlines()
    assert table[0].split()[6:] == ["INSTALLER", "LOOK", "AT"]
    assert [line.split()[6] for line in table[5:7]] == ["0.1.0", "0.2.0"]
    assert "  not ready  " in table[1]
    first = nodes_json(found)["nodes"][0]["installer"]
    assert first == {
        "pod": "kube-system/apiha-installer-c-probe",
        "ready": False,
        "version": "0.2.0",
        "removes": False,
        "restarts": 0,
        "reason": "none of the 3 control planes is ready or alive",
    }


def test_a_pod_that_removes_says_so() -> None:
    """Ready means then that nothing is left."""
    removing = DaemonSet("kube-system", "apiha-installer", "0.2.0", ("--remove",), wanted=1)
    found = installed(report("a"), wanted=removing)
    assert nodes_table(found).splitlines()[1].split()[6] == "removed"
    assert nodes_json(found)["nodes"][0]["installer"]["removes"] is True


def test_pods_that_are_missing_are_told_once() -> None:
    """An admission that refuses them leaves no Pod that could say anything."""
    wanted = DaemonSet("kube-system", "apiha-installer", "0.2.0", (), wanted=3)
    assert installed(report("a"), wanted=wanted).warnings == (
        "the installer's DaemonSet kube-system/apiha-installer wants a Pod on 3 nodes, and 1 have one: `kubectl -n "
        "kube-system describe daemonset apiha-installer` says why",
    )
    assert installed(report("a")).warnings == ()
    assert nodes_table(fleet(leases=[], proxies=[], installers=Installers((wanted,)))).count("WARNING") == 1


def test_a_pod_that_leaves_makes_room() -> None:
    """During a rollout."""
    old = Pod("a", "old", ready=True, version="0.1.0", leaving=True)
    new = Pod("a", "new", ready=False, version="0.2.0")
    assert by_node([old, new]) == by_node([new, old]) == {"a": new}


def test_the_last_word_counts() -> None:
    """Of each Pod, without what kubelet and client-go put before it."""
    events = [
        PodEvent(
            "kube-system",
            "a",
            "2026-11-24T12:00:02Z",
            "(combined from similar events): Readiness probe failed: x",
        ),
        PodEvent("kube-system", "a", "2026-11-24T12:00:01Z", "Readiness probe failed: y"),
        PodEvent("other", "a", "2026-11-24T12:00:00Z", "no room"),
    ]
    assert last_words(events) == {("kube-system", "a"): "x", ("other", "a"): "no room"}


@pytest.mark.parametrize(
    ("statuses", "trouble"),
    [
        ([{"state": {"running": {"startedAt": "2026-11-24T12:00:00Z"}}}], ""),
        ([{"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}], ""),
        (
            [
                {
                    "state": {
                        "waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling\nimage "x"'}
                    }
                }
            ],
            'ImagePullBackOff: Back-off pulling image "x"',
        ),
        (
            [
                {
                    "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s"}},
                    "lastState": {
                        "terminated": {
                            "exitCode": 5,
                            "reason": "Error",
                            "message": 'x\n{"level": "error", "message": "--vip: no"}\n',
                        }
                    },
                }
            ],
            "CrashLoopBackOff: exit code 5: --vip: no",
        ),
        (
            [
                {
                    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                    "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
                }
            ],
            "CrashLoopBackOff: exit code 137 (OOMKilled)",
        ),
        ([{"state": {"terminated": {"exitCode": 1, "message": "[]"}}}], "exit code 1: []"),
        ([{"state": {"running": {}}}, {"state": {"waiting": {"reason": "ErrImagePull"}}}], "ErrImagePull"),
        ([7, {"state": 7}, {"state": {"waiting": 7}}, {}], ""),
        (7, ""),
    ],
)
def test_why_a_container_does_not_run(statuses: object, trouble: str) -> None:
    """What it waits for, how it ended, what it said last: a log line of apiha's by its message."""
    item = {
        "metadata": {"name": "a", "namespace": "kube-system"},
        "spec": {"nodeName": "n"},
        "status": {"containerStatuses": statuses},
    }
    found = read_pod(item)
    assert found is not None
    assert found.trouble == trouble


# ------------------------------------------------------------------------------------------------ reading objects


@pytest.mark.parametrize(
    "item",
    [{}, {"metadata": None}, {"metadata": {"name": 7}}, {"metadata": {"name": "a"}, "status": [], "spec": 1}],
)
def test_no_shape_of_an_object_breaks_the_reader(item: dict[str, Any]) -> None:
    """What the API would never say is left out, or says nothing."""
    found = read_node(item)
    assert found is None or found.ready == "Unknown"
    assert read_lease(item) is None
    assert read_pod(item) is None
    assert read_daemon_set(item) is None
    assert read_event(item) is None


def test_objects_are_read_as_the_api_gives_them() -> None:
    """A Node, a Lease with microseconds, a Pod with a registry that has a port."""
    found = read_node(
        {
            "metadata": {"name": "cp1", "labels": {"node-role.kubernetes.io/control-plane": ""}},
            "spec": {"unschedulable": True},
            "status": {
                "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
                "nodeInfo": {"kubeletVersion": "v1.36.2"},
            },
        }
    )
    assert found == Node("cp1", "True", "KubeletReady", "v1.36.2", cordoned=True, control_plane=True)
    renewed = read_lease({"metadata": {"name": "cp1"}, "spec": {"renewTime": "2026-11-24T11:59:57.250000Z"}})
    assert renewed == Lease("cp1", NOW - timedelta(seconds=2.75))
    pod = {
        "metadata": {"name": "kube-proxy-x", "namespace": "kube-system"},
        "spec": {
            "nodeName": "cp1",
            "containers": [{"image": "registry.example:5000/kube-proxy:v1.36.2@sha256:0"}],
        },
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"restartCount": 2, "state": {"running": {}}}],
        },
    }
    assert read_pod(pod) == Pod("cp1", "kube-proxy-x", ready=True, version="v1.36.2", restarts=2)
    pod["spec"] = {"nodeName": "cp1", "containers": [{"image": "registry.example:5000/kube-proxy"}]}
    without_tag = read_pod(pod)
    assert without_tag is not None
    assert without_tag.version is None
    container = {"image": "apiha:0.1.0", "args": ["--remove"]}
    daemon_set = {
        "metadata": {"name": "apiha-installer", "namespace": "infra"},
        "spec": {"template": {"spec": {"containers": [container]}}},
        "status": {"desiredNumberScheduled": 4},
    }
    assert read_daemon_set(daemon_set) == DaemonSet("infra", "apiha-installer", "0.1.0", ("--remove",), 4)
    event = {
        "metadata": {"name": "x", "creationTimestamp": "2026-11-24T11:00:00Z"},
        "involvedObject": {"kind": "Pod", "namespace": "infra", "name": "a"},
        "lastTimestamp": "2026-11-24T12:00:00Z",
        "message": "Readiness probe failed: no\n",
    }
    assert read_event(event) == PodEvent("infra", "a", "2026-11-24T12:00:00Z", "Readiness probe failed: no")
