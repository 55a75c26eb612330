"""The Lease: timings, why it was lost, abstaining."""

from __future__ import annotations

from typing import Any

import pytest

from apiha.errors import ConfigError

pytest.importorskip("kubernetes", reason="needs the updater's packages: pip install '.[updater]'")

from apiha.updater.election import Lock, check_timing


@pytest.mark.parametrize(
    ("lease", "renew", "retry", "word"),
    [
        (15, 15, 2, "more than --renew"),
        (15.5, 10, 2, "whole seconds"),
        (15, 2, 2, "1.2 times"),
        (15, 10, 0.5, "a second"),
    ],
)
def test_timings_that_cannot_work_are_refused(lease: float, renew: float, retry: float, word: str) -> None:
    """With the flag's name and the reason, where the library would end the process."""
    with pytest.raises(ConfigError, match=word):
        check_timing(lease, renew, retry)
    check_timing(15, 10, 2)


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
