"""The installer's DaemonSet and the options that add to the cluster side: what is in them, and what is refused."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from apiha.admin.installer import LABEL, REMOVE
from apiha.endpoint import Endpoint
from apiha.errors import ConfigError
from apiha.install.bus import BUS_SOCKET
from apiha.install.pod import READY, STATE_FILE
from apiha.manifests.installer import InstallerValues, checked_installer, render_installer
from apiha.manifests.render import EXTRAS, Values, dashboard, one_stream, render

REPOSITORY = Path(__file__).resolve().parents[2]
IMAGE = "registry.example.com/apiha:1.2.3"
CONTROL_PLANE = "node-role.kubernetes.io/control-plane"


def installer(
    *,
    control_planes: tuple[Endpoint, ...] = (),
    tolerations: tuple[str, ...] = (),
    selectors: tuple[str, ...] = (),
    max_unavailable: str = "1",
    remove: bool = False,
) -> InstallerValues:
    return checked_installer(control_planes, tolerations, selectors, max_unavailable, remove=remove)


def daemon_set(wanted: InstallerValues, values: Values | None = None) -> dict[str, Any]:
    files = render_installer(values or Values(IMAGE, ("10.96.0.100",)), wanted)
    (found,) = yaml.safe_load_all(one_stream(files.values()))
    return dict(found)


def pod(wanted: InstallerValues) -> dict[str, Any]:
    return dict(daemon_set(wanted)["spec"]["template"]["spec"])


def test_its_pods_have_no_right_that_they_do_not_use() -> None:
    """No capability, no namespace of the node, no token, no folder but D-Bus's, and that to read only."""
    spec = pod(installer())
    (container,) = spec["containers"]
    security = container["securityContext"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert not security["privileged"]
    assert not security["allowPrivilegeEscalation"]
    assert security["readOnlyRootFilesystem"]
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert not {"hostPID", "hostNetwork", "hostIPC", "serviceAccountName"} & set(spec)
    paths = {volume["name"]: volume["hostPath"] for volume in spec["volumes"] if "hostPath" in volume}
    assert paths == {"dbus": {"path": str(BUS_SOCKET.parent), "type": "Directory"}}
    (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "dbus"]
    assert mount == {"name": "dbus", "mountPath": str(BUS_SOCKET.parent), "readOnly": True}


def test_the_readiness_probe_reads_what_the_pod_writes() -> None:
    """The same file, in the one folder that can be written, and the same word."""
    spec = pod(installer())
    (container,) = spec["containers"]
    command = container["readinessProbe"]["exec"]["command"][-1]
    assert re.findall(r"/\S+", command) == [f"{STATE_FILE};", str(STATE_FILE)]
    assert f"grep -qx {READY} " in command
    (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "state"]
    assert Path(mount["mountPath"]) == STATE_FILE.parent


def test_a_pod_that_ends_leaves_its_last_words_in_its_status() -> None:
    """Where `apiha nodes` reads them; and it finds the Pods by the label that they have."""
    found = daemon_set(installer())
    template = found["spec"]["template"]
    (container,) = template["spec"]["containers"]
    assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"
    name, _, value = LABEL.partition("=")
    assert found["metadata"]["labels"][name] == template["metadata"]["labels"][name] == value
    assert REMOVE in daemon_set(installer(remove=True))["spec"]["template"]["spec"]["containers"][0]["args"]


def test_a_rollout_goes_from_node_to_node() -> None:
    """One at a time unless told otherwise, and a node counts once its Pod has stayed ready."""
    spec = daemon_set(installer())["spec"]
    assert spec["updateStrategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1},
    }
    assert spec["minReadySeconds"] == 30
    changed = daemon_set(installer(max_unavailable="10%"))["spec"]["updateStrategy"]["rollingUpdate"]
    assert changed["maxUnavailable"] == "10%"


def test_only_workers_by_default_and_never_a_control_plane() -> None:
    """Taints are tolerated when asked for; a control plane is left out whatever its taints."""
    for wanted in (installer(), installer(tolerations=("*",))):
        required = pod(wanted)["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert required["nodeSelectorTerms"] == [
            {"matchExpressions": [{"key": CONTROL_PLANE, "operator": "DoesNotExist"}]}
        ]
    assert pod(installer())["tolerations"] == []
    assert pod(installer())["nodeSelector"] == {"kubernetes.io/os": "linux"}
    chosen = pod(installer(selectors=("pool=blue", "example.com/y=")))["nodeSelector"]
    assert chosen == {"kubernetes.io/os": "linux", "pool": "blue", "example.com/y": ""}


@pytest.mark.parametrize(
    ("text", "toleration"),
    [
        ("*", {"operator": "Exists"}),
        ("gpu", {"key": "gpu", "operator": "Exists"}),
        ("gpu:NoSchedule", {"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}),
        ("a.io/b=c:NoExecute", {"key": "a.io/b", "operator": "Equal", "value": "c", "effect": "NoExecute"}),
        ("gpu=", {"key": "gpu", "operator": "Equal", "value": ""}),
    ],
)
def test_tolerations_are_written_like_taints(text: str, toleration: dict[str, str]) -> None:
    """As `kubectl taint` writes them."""
    assert pod(installer(tolerations=(text,)))["tolerations"] == [toleration]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"tolerations": ("",)}, "--toleration: '' is not a taint"),
        ({"tolerations": ("gpu:Never",)}, "NoSchedule, PreferNoSchedule, NoExecute"),
        ({"tolerations": ("a b",)}, "--toleration: 'a b' is not a taint"),
        ({"selectors": ("pool",)}, "--node-selector: 'pool' is not a label; expected KEY=VALUE"),
        ({"selectors": ("=x",)}, "--node-selector"),
        ({"max_unavailable": "0"}, "--max-unavailable: '0'"),
        ({"max_unavailable": "101%"}, "--max-unavailable"),
        ({"max_unavailable": "many"}, "--max-unavailable"),
    ],
)
def test_what_no_cluster_accepts_is_refused_in_one_line(arguments: dict[str, Any], says: str) -> None:
    """With the flag, what was given, and what is expected."""
    with pytest.raises(ConfigError) as raised:
        installer(**arguments)
    assert says in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_the_settings_of_the_cluster_go_to_the_nodes() -> None:
    """VIP (of the primary family), host, port, control planes with a port only if it is another one; none to remove."""
    values = Values(IMAGE, ("10.96.0.100", "fd00::64"), host="api.example.com", port=7443)
    planes = (Endpoint("10.0.0.11", 7443), Endpoint("10.0.0.12", 6443))
    (container,) = daemon_set(installer(control_planes=planes), values)["spec"]["template"]["spec"][
        "containers"
    ]
    assert container["args"] == [
        "--vip=10.96.0.100",
        "--host=api.example.com",
        "--port=7443",
        "--control-plane=10.0.0.11,10.0.0.12:6443",
    ]
    pointing = replace(installer(), kubelet=True)
    assert daemon_set(pointing)["spec"]["template"]["spec"]["containers"][0]["args"][-1] == "--kubelet"
    removing = daemon_set(installer(remove=True), values)["spec"]["template"]["spec"]["containers"][0]
    assert removing["args"] == ["--remove", "--host=api.example.com"]


def test_removing_is_the_same_object_with_other_arguments() -> None:
    """So that applying it rolls it out in the place of the installer."""
    here, gone = daemon_set(installer()), daemon_set(installer(remove=True))
    for document in (here, gone):
        document["spec"]["template"]["spec"]["containers"][0].pop("args")
    assert here == gone


def test_the_network_policies_let_through_what_is_needed_and_no_more() -> None:
    """The updater: in by the port of its pages, out to API servers; the installer: nothing."""
    for port, ports in ((6443, [443, 6443]), (443, [443])):
        values = Values(IMAGE, ("10.96.0.100",), port=port, network_policy=True)
        documents = list(yaml.safe_load_all(one_stream(render(values).values())))
        (policy,) = [document for document in documents if document["kind"] == "NetworkPolicy"]
        (deployment,) = [document for document in documents if document["kind"] == "Deployment"]
        pods = deployment["spec"]["template"]
        assert policy["spec"]["podSelector"]["matchLabels"].items() <= pods["metadata"]["labels"].items()
        (rule,) = policy["spec"]["ingress"]
        listens = [p["containerPort"] for p in pods["spec"]["containers"][0]["ports"]]
        assert (rule.keys(), [p["port"] for p in rule["ports"]]) == ({"ports"}, listens)
        (rule,) = policy["spec"]["egress"]
        assert (rule.keys(), [p["port"] for p in rule["ports"]]) == ({"ports"}, ports)
        files = render_installer(values, installer())
        (policy,) = [
            d for d in yaml.safe_load_all(one_stream(files.values())) if d["kind"] == "NetworkPolicy"
        ]
        assert set(policy["spec"]) == {"podSelector", "policyTypes"}
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]


def test_the_pod_monitor_finds_the_pods_and_their_port() -> None:
    """By their labels and the port's name."""
    documents = list(
        yaml.safe_load_all(one_stream(render(Values(IMAGE, ("10.96.0.100",), pod_monitor=True)).values()))
    )
    (monitor,) = [document for document in documents if document["kind"] == "PodMonitor"]
    (deployment,) = [document for document in documents if document["kind"] == "Deployment"]
    pods = deployment["spec"]["template"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= pods["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in [port["name"] for port in pods["spec"]["containers"][0]["ports"]]


def test_what_is_not_asked_for_is_not_there() -> None:
    """Each option adds its one object, at the end."""
    plain = render(Values(IMAGE, ("10.96.0.100",)))
    for option, name in EXTRAS.items():
        wanted: dict[str, Any] = {option: True}
        more = render(replace(Values(IMAGE, ("10.96.0.100",)), **wanted))
        assert list(more) == [*plain, name]
        assert {key: text for key, text in more.items() if key != name} == plain


# ------------------------------------------------------------------------------------------------ the dashboard


def test_the_dashboard_in_the_config_map_is_the_file() -> None:
    """To the byte; small enough for the annotation of `kubectl apply`."""
    text = (REPOSITORY / "deploy/grafana/apiha.json").read_text(encoding="utf-8")
    assert dashboard() == text
    files = render(Values(IMAGE, ("10.96.0.100",), dashboard=True))
    (config_map,) = yaml.safe_load_all(files["dashboard.yaml"])
    assert config_map["data"] == {"apiha.json": text}
    assert config_map["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert len(files["dashboard.yaml"]) < 200_000  # 262,144 bytes are all that annotations may have


def expressions() -> list[str]:
    """Every query of the dashboard."""
    document = json.loads(dashboard())
    queries = [target["expr"] for panel in document["panels"] for target in panel.get("targets", [])]
    return queries + [entry["expr"] for entry in document["annotations"]["list"]]


def test_the_dashboard_asks_for_metrics_that_are_exported() -> None:
    """Every name in a query is one of the updater's, and every metric of its own is looked at."""
    pytest.importorskip("prometheus_client", reason="needs the extra: pip install 'apiha[updater]'")
    from apiha.updater.metrics import Metrics

    exported = set()
    for family in Metrics().registry.collect():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(
            family.type, ("",)
        )
        exported |= {family.name + suffix for suffix in suffixes}
    asked = {name for query in expressions() for name in re.findall(r"\b(?:apiha|process)_\w+", query)}
    ours = {
        name for name in asked if not name.startswith("apiha_node_")
    }  # what nodes export is tested with that
    assert ours - exported == set()
    assert {
        name for name in exported if name.startswith("apiha_") and not name.endswith(("_sum", "_count"))
    } <= ours


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    """Each has a place of its own on the grid of 24 columns, an id of its own, and a description."""
    panels = json.loads(dashboard())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        grid = panel["gridPos"]
        assert grid["x"] + grid["w"] <= 24
        cells = {
            (x, y)
            for x in range(grid["x"], grid["x"] + grid["w"])
            for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or panel["description"]
