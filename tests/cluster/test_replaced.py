"""All control planes are replaced, one after the other, by machines with other addresses; the worker stays up.

The last module that uses the cluster: it leaves cp-4, cp-5 and cp-6.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.kubeadm.cluster import (
    ADDRESSES,
    Lab,
    block_of,
    failed_units,
    join_control_plane,
    remove_control_plane,
)
from tests.support.kubeadm.pages import block

Record = Callable[[str, object], None]

pytestmark = [pytest.mark.full, pytest.mark.timeout(3600)]

RULES = 120.0  # until a new Service answers on a node whose control planes are all gone


def test_a_worker_outlives_all_control_planes_that_it_knew(lab: Lab, record_property: Record) -> None:
    """A new Service gets its rules on the worker, which then reboots and finds its way: its configuration names dead
    ones only, and so does the copy of the hosts file that its kube-proxy has.
    """
    worker = lab.nodes["worker-1"]
    up_since = worker.booted_at
    for old, new in zip(("cp-1", "cp-2", "cp-3"), ("cp-4", "cp-5", "cp-6"), strict=True):
        join_control_plane(lab, new)
        lab.wait_endpoints()
        remove_control_plane(lab, old)
        lab.wait_endpoints()
        worker.sh("systemctl start apiha-reconcile")  # as the timer does every five minutes
    now = {ADDRESSES[name] for name in ("cp-4", "cp-5", "cp-6")}
    # Nothing is forgotten for 30 days: the dead ones come last.
    lab.wait("the block has the new ones", lambda: set(block_of(worker)[1:4]) == now, 60.0)
    lab.wait_ready(worker.name)
    assert worker.booted_at == up_since

    selector = "app.kubernetes.io/name=apiserver-updater"
    lab.first.sh(
        "kubectl -n kube-system create service clusterip fresh --tcp=80:8080\n"
        f"kubectl -n kube-system set selector service fresh {selector}"
    )
    try:
        fresh = lab.api.get("/api/v1/namespaces/kube-system/services/fresh")["spec"]["clusterIP"]
        ask = f"curl -sS -m 1 -o /dev/null -w '%{{http_code}}' http://{fresh}/healthz"
        took = lab.wait("the new Service answers", lambda: worker.sh(ask, check=False) == "200", RULES)[1]
    finally:
        lab.first.sh("kubectl -n kube-system delete service fresh")
    record_property("rules", took)

    assert not any(address in worker.read("/etc/apiha/config.yaml") for address in now)
    lab.reboot(worker)
    assert failed_units(worker) == []
    assert set(block_of(worker)[1:4]) == now
    lab.first.sh(block("restart-kube-proxy"), timeout=300.0)
