"""The checks about time: clocks that disagree, certificates and CAs whose validity ends or does not hold. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

from apiha.findings import Severity
from apiha.probe import ProbeResult
from apiha.status.model import Found, Observations

EXPIRY_WARNING = timedelta(days=30)  # kubeadm renews at upgrades, once a year: time enough to plan one
SKEW_WARNING = timedelta(seconds=60)  # leases (40 s grace by default) and logs go wrong from about there


def ca_expired(seen: Observations) -> Iterator[Found]:
    """A CA whose validity is over; of several the one that lasts longest counts (a rotation)."""
    if seen.ca.expires is not None and seen.ca.expires <= seen.now:
        yield Found(f"the cluster's CA in {seen.ca.source} {_expiry_words(seen.ca.expires, seen.now)}")


def ca_expiring(seen: Observations) -> Iterator[Found]:
    """A CA whose validity is over soon."""
    if seen.ca.expires is not None and timedelta(0) < seen.ca.expires - seen.now <= EXPIRY_WARNING:
        yield Found(f"the cluster's CA in {seen.ca.source} {_expiry_words(seen.ca.expires, seen.now)}")


def clock_skew(seen: Observations) -> Iterator[Found]:
    """This machine's clock if most of the answers disagree with it, else the clocks of those that do."""
    off = _off(seen)
    if not _own_clock_is_off(seen):
        for result, theirs in off:
            yield Found(
                f"the clock of {result.endpoint} says {_stamp(theirs)}, this machine's {_stamp(seen.now)}",
                advice="set the clock of that control plane: most others agree with this machine",
            )
        return
    disputed = [(result, theirs) for result, theirs in off if result.clock_problem]
    result, theirs = (disputed or off)[0]
    said = f"this machine's clock says {_stamp(seen.now)}, {result.endpoint} says {_stamp(theirs)}"
    if disputed:
        yield Found(f"{said}; {result.detail}", Severity.ERROR)
    else:
        yield Found(said)


def certificate_validity(seen: Observations) -> Iterator[Found]:
    """Serving certificates outside their validity, unless it is this machine's clock that is wrong."""
    if _own_clock_is_off(seen):
        return
    for result in _results(seen):
        if result.clock_problem:
            words = _expiry_words(result.certificate_expires, seen.now)
            yield Found(f"{result.endpoint}: {result.detail}, and the clocks agree; it {words}")


def certificate_expiring(seen: Observations) -> Iterator[Found]:
    """Serving certificates that are valid, but not for long."""
    for result in _results(seen):
        expires = result.certificate_expires
        if expires is not None and not result.clock_problem and expires - seen.now < EXPIRY_WARNING:
            yield Found(f"the serving certificate of {result.endpoint} {_expiry_words(expires, seen.now)}")


def _results(seen: Observations) -> list[ProbeResult]:
    return [answer.result for answer in seen.answers]


def _off(seen: Observations) -> list[tuple[ProbeResult, datetime]]:
    """The answers whose server's clock differs from this machine's, with that server's time."""
    timed = [(result, result.server_time) for result in _results(seen)]
    return [
        (r, theirs) for r, theirs in timed if theirs is not None and abs(seen.now - theirs) > SKEW_WARNING
    ]


def _own_clock_is_off(seen: Observations) -> bool:
    """Whether most of those that tell the time disagree with this machine."""
    timed = [result for result in _results(seen) if result.server_time is not None]
    return len(_off(seen)) * 2 > len(timed)


def _expiry_words(expires: datetime | None, now: datetime) -> str:
    if expires is None:
        return "has dates that cannot be read"
    days = int(abs((expires - now).total_seconds()) // 86400)
    span = "1 day" if days == 1 else f"{days} days"
    if expires > now:
        return f"expires on {_stamp(expires)}, in {span}"
    return f"expired on {_stamp(expires)}, {span} ago"


def _stamp(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ")
