"""What is read from the Service."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("kubernetes", reason="needs the updater's packages: pip install '.[updater]'")
pytest.importorskip("prometheus_client", reason="needs the updater's packages: pip install '.[updater]'")

from apiha.updater.run import _port_name, _service_problem


def test_the_service_is_judged() -> None:
    """Each thing that can be wrong with the Service has a line that says what to do; a good one has none."""
    good: dict[str, Any] = {"spec": {"clusterIPs": ["10.96.0.100"], "ports": [{"port": 6443}]}}
    where = "kube-system/apiserver"
    assert _service_problem(good, where, ("10.96.0.100",)) is None
    assert _service_problem(good, where, ()) is None
    assert "kubectl apply" in str(_service_problem(None, where, ()))
    assert "not 10.96.0.7" in str(_service_problem(good, where, ("10.96.0.7",)))
    assert "selector" in str(_service_problem({"spec": {**good["spec"], "selector": {"a": "b"}}}, where, ()))
    assert "no TCP port" in str(
        _service_problem({"spec": {"clusterIP": "10.96.0.100"}}, where, ("10.96.0.100",))
    )


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        (None, "https"),
        ({"spec": {"ports": [{"port": 6443}]}}, None),
        ({"spec": {"ports": [{"name": "x", "port": 1}, {"name": "https", "port": 6443}]}}, "https"),
        (
            {"spec": {"ports": [{"name": "u", "port": 1, "protocol": "UDP"}, {"name": "api", "port": 6443}]}},
            "api",
        ),
    ],
)
def test_the_port_is_named_as_the_service_names_it(
    service: dict[str, Any] | None, expected: str | None
) -> None:
    """kube-proxy joins a Service's port with the slice's port of the same name."""
    assert _port_name(service) == expected
