"""What /metrics shows."""

from __future__ import annotations

from typing import get_args

import pytest

from apiha import __version__
from apiha.endpoint import Endpoint
from apiha.updater.problems import ProblemKey

pytest.importorskip("prometheus_client", reason="needs the updater's packages: pip install '.[updater]'")

from apiha.updater.metrics import Metrics

A, B, C = (Endpoint(f"192.0.2.{n}", 6443) for n in (1, 2, 3))


def test_the_last_sync_is_a_unix_time_and_0_until_there_is_one() -> None:
    """An updater that never synced must not look as if it just had."""
    now = [1_800_000_000.0]
    metrics = Metrics(lambda: now[0])
    assert shown(metrics, "last_sync_timestamp_seconds") == 0
    metrics.synced()
    now[0] += 132.0
    assert shown(metrics, "last_sync_timestamp_seconds") == 1_800_000_000.0


def test_the_version_is_a_label_of_a_constant() -> None:
    """As Prometheus' conventions have it."""
    assert shown(Metrics(), "build_info", version=__version__) == 1


def test_what_is_known_beforehand_is_shown_as_0() -> None:
    """A first increase is one only after a 0."""
    metrics = Metrics()
    metrics.expect(["apiserver"], ["kubernetes"], get_args(ProblemKey))
    assert shown(metrics, "problem", problem="write") == 0
    assert shown(metrics, "writes_total", slice="apiserver", result="failed") == 0
    assert shown(metrics, "watch_restarts_total", resource="kubernetes", reason="expired") == 0


def shown(metrics: Metrics, name: str, **labels: str) -> float | None:
    """A metric's value."""
    return metrics.registry.get_sample_value(f"apiha_updater_{name}", labels)


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
