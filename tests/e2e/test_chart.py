"""The Helm chart in Helm's own code: it renders the objects of `apiha manifests`, and goes into a real API server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.kube import Cluster, assets_directory, require_assets
from tests.support.kubeadm.pages import block
from tests.support.netns import requires_root
from tools.chart import CHART

helm = pytest.importorskip(
    "helm_python", reason="needs Helm's code, which `make e2e` installs (Linux on x86-64)"
)

IMAGE = "registry.example.com/apiha:1.2.3"
DIGEST = "registry.example.com:5000/a/apiha:1@sha256:" + "0" * 64
VIP = "10.96.0.100"
Key = tuple[str, str | None, str]

EVERYTHING = {
    "podMonitor": {"enabled": True},
    "networkPolicy": {"enabled": True},
    "dashboard": {"enabled": True},
}
# Values, the namespace, and the flags of `apiha manifests` that say the same; then those for its run with --installer.
SETS: dict[str, tuple[dict[str, Any], str, list[str], list[str] | None]] = {
    "least": ({"image": IMAGE, "vips": [VIP]}, "kube-system", ["--image", IMAGE, "--vip", VIP], None),
    "dual stack, another name and port": (
        {"image": DIGEST, "vips": ["fd00::64", VIP], "host": "api.example.com", "port": 7443},
        "infra",
        ["--image", DIGEST, "--vip", "fd00::64", "--vip", VIP, "--host", "api.example.com", "--port", "7443"],
        None,
    ),
    "IPv6, a namespace that YAML reads as a truth value, everything": (
        {"image": IMAGE, "vips": ["fd00::64"], "port": 443, **EVERYTHING},
        "y",
        [
            *("--image", IMAGE, "--vip", "fd00::64", "--port", "443"),
            *("--pod-monitor", "--network-policy", "--dashboard"),
        ],
        None,
    ),
    "installer": (
        {"image": IMAGE, "vips": [VIP], "installer": {"enabled": True}},
        "kube-system",
        ["--image", IMAGE, "--vip", VIP],
        [],
    ),
    "installer with everything": (
        {
            "image": IMAGE,
            "vips": [VIP, "fd00::64"],
            **EVERYTHING,
            "installer": {
                "enabled": True,
                "controlPlane": ["10.0.0.11", "10.0.0.12:7443"],
                "nodeSelector": {"pool": "blue", "kubernetes.io/os": "linux"},
                "tolerations": [
                    {"operator": "Exists"},
                    {"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoSchedule"},
                ],
                "maxUnavailable": "10%",
                "kubelet": True,
            },
        },
        "1e3",
        [
            *("--image", IMAGE, "--vip", VIP, "--vip", "fd00::64"),
            *("--pod-monitor", "--network-policy", "--dashboard"),
        ],
        [
            *(
                "--network-policy",
                "--control-plane",
                "10.0.0.11,10.0.0.12:7443",
                "--node-selector",
                "pool=blue",
            ),
            *(
                "--toleration",
                "*",
                "--toleration",
                "gpu=yes:NoSchedule",
                "--max-unavailable",
                "10%",
                "--kubelet",
            ),
        ],
    ),
    "removal": (
        {"image": IMAGE, "vips": [VIP], "installer": {"enabled": True, "remove": True, "maxUnavailable": 3}},
        "kube-system",
        ["--image", IMAGE, "--vip", VIP],
        ["--remove", "--max-unavailable", "3"],
    ),
}


def by_name(texts: Iterator[str] | list[str]) -> dict[Key, dict[str, Any]]:
    """The objects of YAML streams."""
    documents = [document for text in texts for document in yaml.safe_load_all(text) if document]
    found: dict[Key, dict[str, Any]] = {
        (d["kind"], d["metadata"].get("namespace"), d["metadata"]["name"]): d for d in documents
    }
    assert len(found) == len(documents)
    return found


def rendered(
    values: dict[str, Any], namespace: str = "kube-system", path: Path | str = CHART
) -> dict[Key, dict[str, Any]]:
    """What Helm makes of the chart."""
    with helm.Chart.load(path) as chart:
        chart.validate_schema(values)
        texts = chart.render(values, name="apiha", namespace=namespace)
    return by_name([text for name, text in texts.items() if name.endswith(".yaml")])


def printed(*arguments: str) -> dict[Key, dict[str, Any]]:
    """What `apiha manifests` makes."""
    command = [sys.executable, "-m", "apiha", "manifests", *arguments]
    return by_name([subprocess.run(command, capture_output=True, text=True, check=True).stdout])


@pytest.mark.parametrize("name", SETS)
def test_the_chart_renders_the_objects_of_the_manifests(name: str) -> None:
    """Every object is the same, none more, none less."""
    values, namespace, flags, installer = SETS[name]
    expected = printed(*flags, "--namespace", namespace)
    if installer is not None:
        common = [flag for flag in flags if flag not in ("--pod-monitor", "--network-policy", "--dashboard")]
        expected |= printed(*common, "--namespace", namespace, "--installer", *installer)
    assert rendered(values, namespace) == expected


def test_a_packed_chart_is_whole(tmp_path: Path) -> None:
    """`helm package` takes the dashboard along, which is a link to the one file."""
    values = {"image": IMAGE, "vips": [VIP], **EVERYTHING}
    assert rendered(values, path=helm.package(CHART, destination=tmp_path)) == rendered(values)


def test_helm_has_nothing_against_the_chart() -> None:
    """`helm lint --strict`; that there is no icon is all it says."""
    for values, namespace, _, _ in SETS.values():
        report = helm.lint(CHART, values, strict=True, namespace=namespace)
        assert report["errors"] == []
        assert [message["error"] for message in report["messages"] if message["severity"] > 1] == []


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "image"),
        ({"image": ""}, "image"),
        ({"image": "a b"}, "image"),
        ({"vips": []}, "vips"),
        ({"vips": ["api.example.com"]}, "vips"),
        ({"vips": ["10.96.0.999"]}, "vips"),
        ({"vips": ["FD00::64"]}, "vips"),
        ({"vips": [VIP, VIP]}, "vips"),
        ({"vips": [VIP, "10.96.0.101"]}, "one address of each family"),
        ({"host": "Api.example.com"}, "host"),
        ({"port": "6443"}, "port"),
        ({"port": 0}, "port"),
        ({"replicas": 3}, "replicas"),
        ({"installer": {"enable": True}}, "enable"),
        ({"installer": {"tolerations": ["gpu"]}}, "tolerations"),
        ({"installer": {"maxUnavailable": 0}}, "maxUnavailable"),
        ({"installer": {"maxUnavailable": "0%"}}, "maxUnavailable"),
    ],
)
def test_wrong_values_are_refused_and_named(values: dict[str, Any], says: str) -> None:
    """By the schema, or by the templates for what a schema cannot say."""
    whole = values and {"image": IMAGE, "vips": [VIP], **values}
    with pytest.raises(helm.HelmError, match=says):
        rendered(whole)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One control plane, on loopback: Helm runs in this process."""
    require_assets("kubectl")
    with Cluster(
        n=1, netns=False, controller_manager=True, directory=tmp_path_factory.mktemp("kube")
    ) as running:
        yield running


@requires_root
def test_helm_takes_over_upgrades_and_uninstalls_it(cluster: Cluster, tmp_path: Path) -> None:
    """A release in a real API server: of objects that were there, by the page; it follows the values, and is gone."""
    take_over = block("helm-take-over", {"registry.example.com/apiha:0.1.0": IMAGE})
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{assets_directory()}:{os.environ['PATH']}",
        "KUBECONFIG": str(cluster.kubeconfig("admin")),
        "HOME": str(tmp_path),
    }
    render, rest = take_over.split("\n", 1)
    script = f"{render}\nkubectl apply -f apiha.yaml\n{rest}"
    done = subprocess.run(
        ["bash", "-ec", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    values: dict[str, Any] = {"image": IMAGE, "vips": [VIP], "port": 6443}
    kinds = "deployments,services,endpointslices,leases,daemonsets,networkpolicies,configmaps"

    def there() -> set[str]:
        answer = cluster.kubectl(
            "get", kinds, "-n", "kube-system", "-o", "name", "-l", "app.kubernetes.io/part-of=apiha"
        )
        assert answer.returncode == 0, answer.stderr
        return set(answer.stdout.split())

    with helm.Config(kubeconfig_path=cluster.kubeconfig("admin"), namespace="kube-system") as config:
        config.install(CHART, "apiha", values, namespace="kube-system")
        first = there()
        assert "deployment.apps/apiserver-updater" in first
        assert "daemonset.apps/apiha-installer" not in first
        more = {
            "networkPolicy": {"enabled": True},
            "dashboard": {"enabled": True},
            "installer": {"enabled": True},
        }
        config.upgrade(CHART, "apiha", {**values, **more}, namespace="kube-system")
        assert there() - first == {
            "daemonset.apps/apiha-installer",
            "networkpolicy.networking.k8s.io/apiserver-updater",
            "networkpolicy.networking.k8s.io/apiha-installer",
            "configmap/apiha-dashboard",
        }
        config.uninstall("apiha")
    assert there() == set()
