"""The one writer."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apiha.log import Reporter
from tests.support.control_plane import Authority
from tests.support.updater import kubeconfig

pytest.importorskip("kubernetes", reason="needs the updater's packages: pip install '.[updater]'")
pytest.importorskip("prometheus_client", reason="needs the updater's packages: pip install '.[updater]'")

from apiha.updater.events import Addresses
from apiha.updater.kube import ApiError
from apiha.updater.run import Settings, Updater


class HeldLock:
    """A Lease that is held until it is let go."""

    def __init__(self) -> None:
        self.term: str | None = "me/1"
        self.holder = "me"
        self.why_lost = ""
        self.released: list[str] = []

    def write_window(self, term: str) -> float | None:
        """As long as it is held."""
        return 10.0 if term == self.term else None

    def confirm(self) -> bool:
        """Yes."""
        return True

    def abstain(self, why: str) -> bool:
        """Let go."""
        self.term, self.holder, self.why_lost = None, "other", why
        self.released.append(why)
        return True


class Slices:
    """An API server's slices for the writer, which may refuse writes."""

    def __init__(self, *items: dict[str, Any]) -> None:
        self.items = list(items)

    def list(self) -> tuple[list[dict[str, Any]], str]:
        """What there is."""
        return self.items, "9"

    def watch(self, *_: object) -> Iterator[tuple[str, dict[str, Any]]]:
        """Not asked for."""
        raise NotImplementedError


def source_slice(*addresses: str) -> dict[str, Any]:
    """A `kubernetes` slice."""
    return {
        "metadata": {"name": "kubernetes", "resourceVersion": "5"},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [a], "conditions": {"ready": True}} for a in addresses],
        "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}],
    }


@pytest.fixture
def updater(tmp_path: Path) -> Updater:
    """An updater that leads, by a Lease of the test's, and mirrors two control planes."""
    config = kubeconfig(tmp_path, Authority(tmp_path))
    settings = Settings(kubeconfig=config, identity="me", health_check=False)
    updater = Updater(settings, Reporter(io.StringIO(), log_format="json"))
    made: Any = updater
    made.lock = HeldLock()
    made._source_objects = Slices(source_slice("192.0.2.1", "192.0.2.2"))
    made._live_objects = Slices()
    updater.source.fill(made._source_objects)
    updater.live.fill(made._live_objects)
    for follower in updater.followers.values():
        follower.connected = True
    return updater


def shown(updater: Updater, name: str, **labels: str) -> float | None:
    """A metric's value."""
    return updater.metrics.registry.get_sample_value(f"apiha_updater_{name}", labels)


def accept(updater: Updater, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every write succeed."""
    versions = iter(range(10, 1000))

    def written(body: dict[str, Any], _limit: float) -> dict[str, Any]:
        return {**body, "metadata": {"uid": "u", **body["metadata"], "resourceVersion": str(next(versions))}}

    monkeypatch.setattr(updater.kube, "create_slice", written)
    monkeypatch.setattr(updater.kube, "apply_slice", written)


def test_what_was_not_written_is_neither_counted_nor_announced(
    updater: Updater, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leader whose writes are refused shows the addresses that the slices have, and is not in sync."""
    now = [0.0]
    updater.metrics._now = lambda: now[0]
    accept(updater, monkeypatch)
    accepted = updater.kube.apply_slice

    def refused(_body: dict[str, Any], _limit: float) -> dict[str, Any]:
        raise ApiError(403, "forbidden")

    monkeypatch.setattr(updater.kube, "apply_slice", refused)
    before = updater.metrics._last_sync
    with pytest.raises(ApiError):
        updater._pass()
    assert shown(updater, "mirrored_addresses", family="IPv4") == 0
    assert updater.metrics._last_sync == before
    assert updater.announcer._now == Addresses()
    monkeypatch.setattr(updater.kube, "apply_slice", accepted)
    updater.contact.failure(0.0)
    updater.contact.failure(10.0)
    updater._pass()
    assert updater.metrics._last_sync == before  # the API server is away: who knows
    updater.contact.success()
    updater._pass()
    assert shown(updater, "mirrored_addresses", family="IPv4") == 2
    assert updater.metrics._last_sync == 0.0
    assert len(updater.announcer._now.mirrored) == 2


def test_a_standby_is_in_sync_only_while_the_slices_are_right(
    updater: Updater, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slice that lacks a control plane, or an API server that is away, ages."""
    accept(updater, monkeypatch)
    updater._pass()
    lock: Any = updater.lock
    lock.abstain("test")
    updater.metrics._last_sync = None
    updater._pass()
    assert updater.metrics._last_sync is not None
    updater.source.fill(Slices(source_slice("192.0.2.1")))
    updater.metrics._last_sync = None
    updater._pass()
    assert updater.metrics._last_sync is None
    updater.source.fill(Slices(source_slice("192.0.2.1", "192.0.2.2")))
    updater.contact.failure(0.0)
    updater.contact.failure(10.0)
    updater._pass()
    assert updater.metrics._last_sync is None


def test_a_writer_that_only_crashes_lets_the_lease_go_and_looks_ill(
    updater: Updater, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three bugs in a row: the Lease is let go; following does not count as health, until a leader's pass goes well."""
    lock: Any = updater.lock
    passes: list[bool] = []

    def crash(_news: float | None = None) -> bool:
        leading = lock.term is not None
        passes.append(leading)
        if leading:
            raise KeyError("a bug")
        updater.stop_event.set()
        return True

    monkeypatch.setattr(updater, "_pass", crash)
    updater._last_pass -= 100.0
    updater._write()
    assert passes == [True, True, True, False]
    assert lock.released == ["an internal error"]
    assert "KeyError" in updater.problems.present["internal"]
    assert shown(updater, "problem", problem="internal") == 1
    assert any("no pass of the writer" in line for line in updater._unhealthy())
    updater._turned(True)
    assert updater.problems.present == {}
    assert not updater._unhealthy()


def test_only_the_families_of_the_service_are_mirrored(updater: Updater) -> None:
    """Those it has, else those of --vip, else both."""
    assert updater._families({"spec": {"ipFamilies": ["IPv4"]}}) == {"IPv4"}
    assert updater._families({"spec": {"clusterIPs": ["2001:db8::1"]}}) == {"IPv6"}
    assert updater._families(None) == {"IPv4", "IPv6"}
