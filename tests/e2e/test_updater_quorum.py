"""Two replicas beside API servers whose etcd has no quorum: they answer, and nothing they are asked for works."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.support.kube import Cluster
from tests.support.updater import Space, Updater, wait_for

pytest.importorskip("prometheus_client", reason="needs the updater's packages: pip install '.[updater]'")

THREE = ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
OUTAGE = 60.0  # s: the API servers' own time limits are a fraction of that


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three members of etcd, and an API server that leaves the `kubernetes` endpoints to the tests."""
    with Cluster(
        n=1, netns=False, etcd_members=3, apiserver_args=["--endpoint-reconciler-type=none"]
    ) as cluster:
        yield cluster


def wait_ready(updater: Updater, expected: int) -> None:
    """Until /readyz says this."""
    wait_for(f"/readyz says {expected}", lambda: status(updater, "/readyz") == expected)


def status(updater: Updater, path: str) -> int:
    """The status of one of its pages."""
    return updater.get(path).status_code


def test_without_quorum_no_replica_says_ready_and_the_log_is_short(space: Space) -> None:
    """Both are unready for as long as it lasts, alive, and say what is wrong once. Afterwards all is as before."""
    cluster = space.cluster
    with (
        Updater(cluster, space.namespace, "--no-health-check") as first,
        Updater(cluster, space.namespace, "--no-health-check", name="second") as second,
    ):
        both = (first, second)
        space.wait_mirrored(THREE)
        for updater in both:
            wait_ready(updater, 200)
        before = [len(updater.log()) for updater in both]
        cluster.lose_quorum()
        try:
            for updater in both:
                wait_ready(updater, 503)
            started = time.monotonic()
            while time.monotonic() - started < OUTAGE:
                for updater in both:
                    assert status(updater, "/readyz") == 503, updater.log()[-5:]
                    assert status(updater, "/healthz") == 200
                    assert not updater.said("answers again")
                time.sleep(0.5)
            lines = [[line["message"] for line in u.log()[n:]] for u, n in zip(both, before, strict=True)]
            leaders = next(found for found in lines if any("no longer leading" in line for line in found))
            assert sum(map(len, lines)) <= 6, lines
            assert all(sum("no request" in line for line in found) == 1 for found in lines), lines
            assert len(leaders) <= 4
        finally:
            cluster.regain_quorum()
        for updater in both:
            wait_ready(updater, 200)
        for updater in both:
            updater.wait_said("requests succeed again")
        space.set_source(["192.0.2.9"])
        space.wait_mirrored(["192.0.2.9"])
