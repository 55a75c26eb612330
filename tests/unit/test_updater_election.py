"""The Lease: timings, why it was lost, abstaining."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("kubernetes", reason="needs the updater's packages: pip install '.[updater]'")

from apiha.updater.election import Lock


def test_a_lock_says_why_it_was_lost_and_abstains() -> None:
    """Another holder, an emptied Lease and a late renewal are told apart; who abstains does not ask for the Lease."""
    from kubernetes import client

    now = [0.0]
    lock = Lock(client.ApiClient(), "l", "n", "me", lease_duration=15, renew_deadline=10, now=lambda: now[0])
    for holder, why in (("other", "other does"), (None, "somebody emptied the Lease")):
        lock._held(0.0)
        lock._observe(client.V1LeaseSpec(holder_identity=holder))
        assert lock.term is None
        assert lock.why_lost == why
    lock._held(0.0)
    lock.lose()
    assert lock.why_lost == "the lease was not renewed in time"

    lease = client.V1Lease(spec=client.V1LeaseSpec(holder_identity="me"))
    written: list[Any] = []

    class Api:
        def read_namespaced_lease(self, *_: object) -> Any:
            return lease

        def replace_namespaced_lease(self, **arguments: Any) -> None:
            written.append(arguments["body"].spec.holder_identity)

    api: Any = Api()
    lock.api_instance = api
    lock._held(0.0)
    assert lock.abstain("a bug")
    assert written == [None]
    assert lock.why_lost == "a bug"
    record: Any = None
    lock._observe(lease.spec)
    assert not lock.update("l", "n", record)
    assert not lock.create("l", "n", record)
    now[0] = 15.0
    assert not lock.abstaining
