"""What the failover benchmark found: a page with tables, a timeline as SVG, and which promises were kept. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tests.bench.table import table

if TYPE_CHECKING:
    from tests.bench.failover import Outcome

Results = Mapping[tuple[str, str], Sequence["Outcome"]]
FAULT_WORDS = {"power": "loses power", "kill": "has its API server killed"}
SLOW = (0.5, 1.1, 3.0)  # s
HEADS = [
    "scheme",
    "longest gap between renewals",
    "NotReady",
    "fresh clients over 0.5 / 1.1 / 3 s, of",
    "slowest",
    "watch noticed after",
    "kube-proxy's rules right after",
    "processes on the worker",
    "their memory",
    "connections/s to one control plane at rest",
]


def summary(outcome: Outcome) -> str:
    """A run in one line."""
    slow = [sum(client.seconds > limit for client in outcome.clients) for limit in SLOW]
    return (
        f"gap {_seconds(outcome.gap)}, clients {'/'.join(map(str, slow))} of {len(outcome.clients)}, "
        f"slowest {_seconds(_slowest([outcome]))}, watch {_seconds(outcome.watch)} ({outcome.watches}), "
        f"rules {_seconds(outcome.rules)}"
    )


def page(texts: Mapping[str, str], faults: Sequence[str], results: Results) -> str:
    """The whole page, as Markdown."""
    parts = [
        "# Failover, measured side by side\n",
        "Written by `make bench-failover`; do not edit. Three real kube-apiservers, a real kube-proxy (nftables), the "
        "kubelet's own code, and one fault at a time: the control plane that both of them talk to loses power, or has "
        "its API server killed, in the middle between two renewals of the node's Lease (every 10 s). Fresh clients: a "
        "new Go client by name every 100 ms for 20 s. Watches: Go clients with a request every 200 ms on the same "
        "connection. The rivals are Debian's programs, configured as their projects document it "
        "(`tests/support/rivals.py`). Rules: those of the Service `apiserver`, without the VIP those of "
        "`kubernetes`.\n",
        "![Each dot is a fresh client: when it started, and how long it took](failover.svg)\n",
    ]
    for fault in faults:
        rows = [[text, *cells(results[name, fault])] for name, text in texts.items()]
        parts += [f"## A control plane {FAULT_WORDS[fault]}\n", table(HEADS, rows), ""]
    parts.append(
        "All hosts are on one Ethernet segment: a silent address fails after 3 s there (ARP), beyond a router only "
        "when the dialer's share for it is used up. With keepalived the machine that holds the address is "
        "lost. Connections at rest: with apiha they are the updater's health checks, one a second however many workers "
        "there are; a proxy on each worker makes its own.\n"
    )
    return "\n".join(parts)


def cells(outcomes: Sequence[Outcome]) -> list[str]:
    """A row's columns after the first."""
    measured = [outcome for outcome in outcomes if outcome.error is None]
    if not measured:
        words = outcomes[0].error if outcomes else None
        return [f"failed: {words[:80]}" if words else "not measured", *[""] * (len(HEADS) - 2)]
    gaps = [outcome.gap for outcome in measured]
    clients = [client for outcome in measured for client in outcome.clients]
    failed = sum(not client.ok for client in clients)
    slow = " / ".join(str(sum(client.seconds > limit for client in clients)) for limit in SLOW)
    watches = [outcome.watch for outcome in measured if outcome.watches]
    last = measured[-1]
    not_ready = max(outcome.not_ready for outcome in measured)
    return [
        _worst(gaps),
        f"{not_ready:.0f} s" if not_ready else "never",
        f"{slow}, {len(clients)}" + (f", {failed} failed" if failed else ""),
        _seconds(_slowest(measured)),
        _worst(watches) if watches else "not held",
        _worst([outcome.rules for outcome in measured]),
        str(last.processes),
        f"{last.resident / 2**20:.0f} MiB" if last.resident else "0",
        f"{last.checks:.2f}",
    ]


def _slowest(outcomes: Sequence[Outcome]) -> float | None:
    return max((client.seconds for outcome in outcomes for client in outcome.clients), default=None)


def _worst(values: Sequence[float | None]) -> str:
    return _seconds(None if None in values else max(value for value in values if value is not None))


def _seconds(value: float | None) -> str:
    return "**never**" if value is None else f"{value:.1f} s"


# ------------------------------------------------------------------------------------------------------- promises


def broken_promises(results: Results) -> list[str]:
    """What docs/ promise of fail fast and this run did not keep; noise that one address shows too is noise."""
    broken = []
    for (name, fault), outcomes in results.items():
        if not name.startswith("fail-fast"):
            continue
        for outcome in (outcome for outcome in outcomes if outcome.error is None):
            where = f"{name}, {fault}"
            clients = outcome.clients
            noise = sum(
                c.seconds > SLOW[1] for o in results.get(("one", "kill"), ()) for c in o.clients if c.ok
            )
            slow, slower = (sum(c.seconds > limit for c in clients) for limit in SLOW[:2])
            if slower > noise:
                broken.append(f"{where}: {slower} fresh clients over {SLOW[1]} s (noise: {noise})")
            if slow > max(noise, 0.02 * len(clients)):
                broken.append(
                    f"{where}: {slow} of {len(clients)} fresh clients over {SLOW[0]} s; promised: 2 %"
                )
            if outcome.gap is None or outcome.gap > 12.0:
                broken.append(f"{where}: {_seconds(outcome.gap)} between renewals; promised: 12 s")
            if outcome.watches and (outcome.watch is None or outcome.watch > 2.0):
                broken.append(f"{where}: a watch noticed after {_seconds(outcome.watch)}; promised: 2 s")
            if name == "fail-fast-proxy" and (outcome.rules is None or outcome.rules > 7.0):
                broken.append(f"{where}: rules right after {_seconds(outcome.rules)}; promised: 7 s")
    return broken


# ------------------------------------------------------------------------------------------------------- timeline

_ROW, _LEFT, _WIDTH, _RIGHT = 54, 250, 640, 40  # pixels
_SPAN = 20.0  # s of clients
_LOW, _HIGH = 0.01, 60.0  # s: the ends of a row's logarithmic scale
_STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #24292f } .title { font-weight: 600; font-size: 14px }
  .scale { font-size: 9px } .axis { stroke: #8c959f; stroke-width: 1 } .grid { stroke: #d0d7de; stroke-width: 1 }
  .fast { fill: #1a7f37 } .slow { fill: #bf8700 } .late { fill: #cf222e } .failed { fill: none; stroke: #cf222e }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .axis { stroke: #7d8590 } .grid { stroke: #30363d }
    .fast { fill: #3fb950 } .slow { fill: #d29922 } .late { fill: #f85149 } .failed { stroke: #f85149 }
  }
"""


def timeline(texts: Mapping[str, str], faults: Sequence[str], results: Results) -> str:
    """A row for each scheme and fault, a dot for each fresh client: when it started, and (upwards) how long it took."""
    rows = [(fault, name) for fault in faults for name in texts]
    height = 40 + len(faults) * 34 + len(rows) * _ROW + 40
    width = _LEFT + _WIDTH + _RIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'aria-label="How long fresh clients took after a control plane was lost">',
        f"<style>{_STYLE}</style>",
        '<text class="title" x="10" y="22">'
        "A fresh client every 100 ms: green to 0.5 s, yellow to 1.1 s, red above</text>",
    ]
    top = 40
    for fault in faults:
        parts.append(f'<text class="title" x="10" y="{top + 22}">A control plane {FAULT_WORDS[fault]}</text>')
        top += 34
        for name, text in texts.items():
            parts += _row(top, text.replace("**", ""), results.get((name, fault), ()))
            top += _ROW
    for second in range(0, int(_SPAN) + 1, 5):
        parts.append(f'<text x="{_x(second):.0f}" y="{top + 20}" text-anchor="middle">{second} s</text>')
    return "\n".join([*parts, "</svg>", ""])


def _row(top: int, text: str, outcomes: Sequence[Outcome]) -> list[str]:
    base = top + _ROW - 6
    parts = [f'<text x="10" y="{base - 14}">{text}</text>']
    for seconds in (0.1, 1.0, 10.0):
        y = _y(base, seconds)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_LEFT + _WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="scale" x="{_LEFT + _WIDTH + 5}" y="{y + 3:.1f}">{seconds:g} s</text>')
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_LEFT + _WIDTH}" y1="{base}" y2="{base}"/>')
    for client in (client for outcome in outcomes for client in outcome.clients):
        kind = "fast" if client.seconds <= SLOW[0] else "slow" if client.seconds <= SLOW[1] else "late"
        kind = kind if client.ok else "failed"
        parts.append(
            f'<circle class="{kind}" cx="{_x(client.start):.1f}" cy="{_y(base, client.seconds):.1f}" r="2"/>'
        )
    return parts


def _x(seconds: float) -> float:
    return _LEFT + max(0.0, min(seconds, _SPAN)) / _SPAN * _WIDTH


def _y(base: int, seconds: float) -> float:
    share = math.log(max(_LOW, min(seconds, _HIGH)) / _LOW) / math.log(_HIGH / _LOW)
    return base - share * (_ROW - 12)
