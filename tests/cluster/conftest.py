"""What every test of a genuine cluster has: the cluster, and a report of its machines when a test fails."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import pytest

from tests.support.kubeadm import missing
from tests.support.kubeadm.cluster import PYZ, Lab, apply_manifests, join_worker, new_cluster


@pytest.fixture(scope="session", autouse=True)
def _requirements() -> None:
    """Skip, with the reason, where such a cluster cannot be made."""
    if reason := missing():
        pytest.skip(reason)
    if not PYZ.exists():
        pytest.skip("needs dist/apiha.pyz: run `make dist`, or `make e2e-cluster`")


@pytest.fixture(scope="module")
def empty_lab(_requirements: None) -> Iterator[Lab]:
    """An empty network of the module's own, for a cluster that is made another way."""
    with Lab() as lab:
        yield lab


@pytest.fixture(scope="session")
def new_lab(_requirements: None) -> Iterator[Lab]:
    """The new cluster of docs/cluster.md with a worker, for all modules that do not say otherwise.

    A test leaves it healthy, and as many nodes in it as there were.
    """
    with Lab() as lab:
        new_cluster(lab)
        apply_manifests(lab)
        join_worker(lab, lab.add("worker-1"))
        yield lab


@pytest.fixture(scope="module")
def lab(new_lab: Lab) -> Lab:
    """The cluster of this module."""
    return new_lab


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules with a cluster of their own come first, so that there is never more than one at a time."""
    items.sort(key=lambda item: "new_lab" in getattr(item, "fixturenames", ()))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what the machines say to the report of a failed test."""
    report = yield
    if report.failed and (lab := getattr(item, "funcargs", {}).get("lab")) is not None:
        report.sections.append(("the machines", lab.report()))
    return report
