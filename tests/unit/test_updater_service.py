"""What the Service says, and what is wrong with it."""

from __future__ import annotations

from typing import Any

import pytest

from apiha.updater.service import families, port_name, problem

GOOD: dict[str, Any] = {"spec": {"clusterIPs": ["10.96.0.100"], "ports": [{"port": 6443}]}}


@pytest.mark.parametrize(
    ("service", "vips", "words"),
    [
        (GOOD, ("10.96.0.100",), None),
        (GOOD, (), None),
        (None, (), "does not exist"),
        (None, (), "kubectl apply"),
        (GOOD, ("10.96.0.7",), "not 10.96.0.7"),
        ({"spec": {**GOOD["spec"], "selector": {"a": "b"}}}, (), "selector"),
        ({"spec": {"clusterIP": "10.96.0.100"}}, ("10.96.0.100",), "no TCP port"),
    ],
)
def test_what_is_wrong_has_a_line_that_says_what_to_do(
    service: dict[str, Any] | None, vips: tuple[str, ...], words: str | None
) -> None:
    """And a good Service has none."""
    found = problem(service, "kube-system/apiserver", vips)
    assert found is None if words is None else words in str(found)


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
    assert port_name(service) == expected


def test_only_the_families_of_the_service_count() -> None:
    """Those it has, else those of --vip, else both."""
    assert families({"spec": {"ipFamilies": ["IPv4"]}}, ()) == {"IPv4"}
    assert families({"spec": {"clusterIPs": ["2001:db8::1"]}}, ()) == {"IPv6"}
    assert families(None, ("10.96.0.100",)) == {"IPv4"}
    assert families(None, ()) == {"IPv4", "IPv6"}
