"""The Deployment's own command line, in what its securityContext leaves of a machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from apiha.manifests.render import checked_values, one_stream, render
from tests.support.cli import require_runnable
from tests.support.kube import HOST, Cluster, require_assets
from tests.support.netns import Host, requires_root
from tests.support.updater import wait_for

pytest.importorskip("prometheus_client", reason="needs the updater's packages: pip install '.[updater]'")
pytestmark = requires_root

VIP = "10.96.0.100"
# What kubelet gives to a Pod, on a root that cannot be written to; then the rights are dropped and the container's
# command takes over. $1 is the folder with the service account's files.
SANDBOX = """
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/secrets/kubernetes.io
cp -r "$1" /run/secrets/kubernetes.io/serviceaccount
shift
awk '$5 !~ "^/(proc|sys|dev)(/|$)" { print $5 }' /proc/self/mountinfo | while read -r point; do
    mount -o remount,bind,ro "$point" 2>/dev/null || true
done
mount -t tmpfs -o ro tmpfs /dev/shm
cd /
if touch /tmp/writable /run/writable /var/tmp/writable 2>/dev/null; then echo "not read-only" >&2; exit 1; fi
exec setpriv --reuid="$RUN_AS_USER" --regid="$RUN_AS_GROUP" --clear-groups --bounding-set=-all --inh-caps=-all \
    --no-new-privs --pdeathsig KILL "$@"
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Certificates carry addresses here: a Pod talks to the address of the Service `kubernetes`."""
    require_assets("kubectl")
    with Cluster(n=1, ip_sans=True, directory=tmp_path_factory.mktemp("kube")) as running:
        running.wait_endpoints(running.addresses)
        yield running


def manifests(cluster: Cluster) -> list[dict[str, Any]]:
    settings = checked_values("apiha:1", [VIP], "kube-system", HOST, cluster.port)
    return list(yaml.safe_load_all(one_stream(render(settings).values())))


def memory_bytes(quantity: str) -> int:
    return int(quantity.removesuffix("Mi")) * 1024 * 1024


@pytest.fixture
def pod_spec(cluster: Cluster) -> dict[str, Any]:
    """The manifests, applied; the Deployment's Pod."""
    documents = manifests(cluster)
    text = "---\n".join(json.dumps(document) + "\n" for document in documents)
    answer = cluster.kubectl("apply", "-f", "-", stdin=text)
    assert answer.returncode == 0, answer.stderr
    found: dict[str, Any] = documents[-1]["spec"]["template"]["spec"]
    return found


def test_the_command_works_in_the_sandbox(cluster: Cluster, pod_spec: dict[str, Any], tmp_path: Path) -> None:
    """Unprivileged, on a read-only root, with a Pod's environment, it mirrors, serves its pages and ends well."""
    (container,) = pod_spec["containers"]
    context = pod_spec["securityContext"]
    user, group = str(context["runAsUser"]), str(context["runAsGroup"])
    require_runnable(["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"])
    account = tmp_path / "serviceaccount"
    account.mkdir()
    token = cluster.kubectl("create", "token", pod_spec["serviceAccountName"], "-n", "kube-system")
    assert token.returncode == 0, token.stderr
    (account / "token").write_text(token.stdout.strip())
    (account / "namespace").write_text("kube-system")
    (account / "ca.crt").write_bytes(cluster.ca_file.read_bytes())
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "KUBERNETES_SERVICE_HOST": cluster.addresses[0],
        "KUBERNETES_SERVICE_PORT": str(cluster.port),
        "RUN_AS_USER": user,
        "RUN_AS_GROUP": group,
    }
    assert cluster.network is not None
    hub: Host = cluster.network.hub
    log = tmp_path / "log"
    with log.open("wb") as stream:
        process = hub.popen(
            [
                "unshare",
                "--mount",
                "sh",
                "-ec",
                SANDBOX,
                "sandbox",
                str(account),
                *container["command"],
                *container["args"],
            ],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
        )
    try:

        def page(path: str) -> int:
            port = container["ports"][0]["containerPort"]
            url = f"http://{hub.address}:{port}{path}"
            try:
                return hub.call(lambda: httpx.get(url, timeout=5.0, trust_env=False)).status_code
            except httpx.TransportError:
                return 0

        def ready() -> bool:
            assert process.poll() is None, log.read_text()
            return page(container["readinessProbe"]["httpGet"]["path"]) == 200

        wait_for("it is ready", ready)
        cluster.wait_endpoints(cluster.addresses, "apiserver", "kube-system")
        assert page(container["livenessProbe"]["httpGet"]["path"]) == 200
        status = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
            if ":\t" in line
        )
        assert status["Uid"].split() == ["65532"] * 4
        assert int(status["CapBnd"], 16) == int(status["CapEff"], 16) == 0
        resident = int(status["VmRSS"].split()[0]) * 1024
        assert resident < memory_bytes(container["resources"]["limits"]["memory"]) // 1.3
        process.send_signal(signal.SIGTERM)
        assert process.wait(pod_spec["terminationGracePeriodSeconds"]) == 0
        lines = [json.loads(line) for line in log.read_text().splitlines()]  # JSON and nothing else
        assert [line for line in lines if line["level"] in ("error", "warning")] == []
        assert lines[-1]["message"] == "released the lease"
    finally:
        process.kill()
        process.wait()
    print(f"resident: {resident / 1024 / 1024:.0f} MiB")
