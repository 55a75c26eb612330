"""What the maintenance benchmark found: a page with tables, and which promises were not kept. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.bench.table import table

LIMIT = 1.1  # s: what no new connection may take
PROMISED = ("drain", "both", "power")  # the ways in which no new connection fails, and none is slow
REST = "rest"  # the load by itself: what is slow there is the machine's doing
RETURNED = 2  # the control plane that was away, of the three


@dataclass(frozen=True)
class Way:
    """One way to take three control planes out, one after the other."""

    text: str
    drain: bool = False
    delay: int = 0  # --shutdown-delay-duration, s
    power: bool = False  # loses power instead of SIGTERM
    restart: bool = True


WAYS = {
    REST: Way("left alone", restart=False),
    "plain": Way("restarted as they are"),
    "drain": Way("**`drain`, restart, `undrain`**", drain=True),
    "power": Way("**`drain`, power off, power on, `undrain`**", drain=True, power=True),
    "delay": Way("restarted with `--shutdown-delay-duration=15s`", delay=15),
    "both": Way("**`drain`, restart with that delay, `undrain`**", drain=True, delay=15),
}


@dataclass(frozen=True)
class Seen:
    """What new connections came to; times in seconds, each from the dial to the end of the answer."""

    tried: int = 0
    failed: int = 0
    slow: int = 0  # over LIMIT
    median: float = 0.0
    slowest: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What the clients saw of one way."""

    name: Seen = field(default_factory=Seen)
    vip: Seen = field(default_factory=Seen)
    watches: int = 0  # begun anew
    watches_refused: int = 0
    requests: int = 0  # on connections that are kept
    requests_failed: int = 0
    seconds: float = 0.0  # the whole way
    busy: float = 0.0  # of the machine's processors, 0 to 1


Spread = Mapping[str, Mapping[str, Sequence[Sequence[int]]]]
"""By --goaway-chance and kind of client: the connections on each control plane, at each of the quarters."""


@dataclass(frozen=True)
class Kind:
    """A kind of client in quiet times: watches at the same time, and requests in an hour beside them."""

    text: str
    watches: int
    requests: int


# kubelet: its Lease every 10 s, its status every 5 min (nodeStatusReportFrequency); it watches its Node, its Pods,
# Services, CSIDrivers, RuntimeClasses, and the ConfigMaps and Secrets of its Pods. kube-proxy watches Services,
# EndpointSlices, its Node and ServiceCIDRs. A client-go watch lasts 5 to 10 min (minWatchTimeout), so 8 in an hour.
KINDS = {"kubelet": Kind("kubelet", 7, 360 + 12), "kube-proxy": Kind("kube-proxy", 4, 0)}
WATCHES_AN_HOUR = 8


def outcomes_json(ways: Mapping[str, Outcome], spread: Spread) -> dict[str, Any]:
    """What was found, to be kept between two runs."""
    return {"ways": {name: asdict(outcome) for name, outcome in ways.items()}, "spread": spread}


def outcomes_of(document: Mapping[str, Any]) -> tuple[dict[str, Outcome], dict[str, Any]]:
    """The same, read again."""
    ways = {
        name: Outcome(**{**found, "name": Seen(**found["name"]), "vip": Seen(**found["vip"])})
        for name, found in document["ways"].items()
    }
    return ways, dict(document["spread"])


def row(outcome: Outcome) -> list[str]:
    """The cells of one way."""
    cells = []
    for seen in (outcome.name, outcome.vip):
        cells += [
            f"{seen.failed} of {seen.tried:,}",
            f"{seen.slow}",
            f"{seen.median * 1000:.0f} ms / {seen.slowest:.2f} s",
        ]
    return [
        *cells,
        f"{outcome.watches}, {outcome.watches_refused}",
        f"{outcome.requests_failed} of {outcome.requests:,}",
        f"{outcome.seconds:.0f} s",
        f"{outcome.busy:.0%}",
    ]


HEADS = [
    "three control planes, one after the other",
    "new connections by name: failed",
    f"over {LIMIT} s",
    "median / slowest",
    "by VIP: failed",
    f"over {LIMIT} s",
    "median / slowest",
    "watches begun anew, refused",
    "requests on open connections: failed",
    "took",
    "processors busy",
]


def page(
    ways: Mapping[str, Outcome], spread: Spread, *, about: str, spread_about: str, minutes: Sequence[int]
) -> str:
    """The page, as Markdown; `about` and `spread_about` say how it was measured, `minutes` when one looked."""
    rows = [[WAYS[name].text, *row(ways[name])] for name in WAYS if name in ways]
    parts = ["# Maintenance, measured\n", about + "\n", table(HEADS, rows)]
    if not spread:
        return "\n".join([*parts, ""])
    parts += ["\n## How evenly nodes spread afterwards\n", spread_about + "\n"]
    heads = ["`--goaway-chance`", "clients", *("at once" if m == 0 else f"after {m} min" for m in minutes)]
    heads += ["of these on the one that was away"]
    lines = []
    for chance, kinds in spread.items():
        for kind, found in kinds.items():
            counts = [" / ".join(map(str, each)) for each in found]
            lines.append(
                [chance if chance != "0" else "not set", KINDS[kind].text, *counts, f"{share(found[-1]):.0%}"]
            )
    return "\n".join([*parts, table(heads, lines), ""])


def share(counts: Sequence[int]) -> float:
    """The part of the connections that the control plane has which was away."""
    return counts[RETURNED] / (sum(counts) or 1)


def broken_promises(ways: Mapping[str, Outcome], spread: Spread) -> list[str]:
    """What docs/maintenance.md promises and this run did not keep, a line each.

    What is slow while all control planes are left alone is the machine's doing, and as much is forgiven elsewhere.
    """
    broken = []
    rest = ways.get(REST, Outcome())
    noise = {"name": rest.name.slow, "VIP": rest.vip.slow}
    for way in PROMISED:
        if way not in ways:
            continue
        found = ways[way]
        for by, seen in (("name", found.name), ("VIP", found.vip)):
            if not seen.tried:
                broken.append(f"{way}: nobody connected by {by}")
            if seen.failed:
                broken.append(f"{way}: {seen.failed} of {seen.tried} new connections by {by} failed")
            if seen.slow > noise[by]:
                broken.append(
                    f"{way}: {seen.slow} of {seen.tried} new connections by {by} took over {LIMIT} s (left "
                    f"alone: {noise[by]})"
                )
        if found.watches_refused:
            broken.append(f"{way}: {found.watches_refused} watches were refused")
        if found.requests_failed and not WAYS[way].power:
            broken.append(f"{way}: {found.requests_failed} requests on open connections failed")
    unset = spread.get("0", {}).get("kubelet")
    tenth = spread.get("0.01", {}).get("kubelet")
    if unset and unset[-1][RETURNED]:
        broken.append("connections move without --goaway-chance; docs say that they do not")
    if tenth and share(tenth[-1]) < 0.25:
        broken.append(
            f"--goaway-chance=0.01: {share(tenth[-1]):.0%} on the one that was away; promised: a third"
        )
    return broken
