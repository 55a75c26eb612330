"""What /metrics shows."""

from __future__ import annotations

import pytest

from apiha.endpoint import Endpoint

pytest.importorskip("prometheus_client", reason="needs the updater's packages: pip install '.[updater]'")

from apiha.updater.metrics import Metrics

A, B, C = (Endpoint(f"192.0.2.{n}", 6443) for n in (1, 2, 3))


def test_seconds_since_the_last_sync_count_from_the_start_until_there_is_one() -> None:
    """An updater that never synced must look as old as it is."""
    now = [100.0]
    metrics = Metrics(lambda: now[0])
    now[0] = 130.0
    assert b"apiha_updater_last_sync_age_seconds 30.0" in metrics.render()
    metrics.synced()
    now[0] = 132.0
    assert b"apiha_updater_last_sync_age_seconds 2.0" in metrics.render()


def test_metrics_of_a_control_plane_that_is_gone_are_gone() -> None:
    """No series is left to say for ever that it is dead."""
    metrics = Metrics()
    for endpoint in (A, B):
        metrics.healthy.labels(str(endpoint)).set(0)
        metrics.probe_failures.labels(str(endpoint), "timeout").inc()
        metrics.probe_seconds.labels(str(endpoint)).observe(0.1)
    metrics.forget_address(str(A))
    metrics.forget_address(str(A))
    text = metrics.render().decode()
    assert str(A) not in text
    assert str(B) in text
