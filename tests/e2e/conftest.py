"""Fixtures of the end-to-end tests: a real cluster for each module; a failure's report shows its logs."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import pytest

from tests.support.kube import Cluster
from tests.support.machine import require_debian
from tests.support.updater import Api, Space


@pytest.fixture(scope="module")
def debian() -> None:
    """The disk of a fresh Debian machine is there, or the module's tests skip."""
    require_debian()


@pytest.fixture(scope="module")
def kube_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three control planes in network namespaces. A test that breaks one puts it right again."""
    with Cluster(n=3, directory=tmp_path_factory.mktemp("kube")) as cluster:
        yield cluster


@pytest.fixture
def space(cluster: Cluster) -> Iterator[Space]:
    """A fresh namespace with the Service in it, on the module's own `cluster`."""
    api = Api(cluster)
    space = Space(cluster, api)
    space.make_service()
    yield space
    api.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the logs of the clusters that a failed test used."""
    report = yield
    if report.failed:
        for name, value in getattr(item, "funcargs", {}).items():
            if isinstance(value, Cluster):
                report.sections.append((f"logs of {name}", value.logs()))
    return report
