"""The fleet benchmark's plots, as SVG that reads well on light and on dark. Pure: the same findings, the same bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.bench.fleet_life import RIVALS, UPDATERS
from tests.bench.fleet_report import Findings

PLOTS = ("scale-boot.svg", "scale-rest.svg", "scale-loss.svg")
DRAWN = ((0, ""), (1, "silent"), (2, "silent"), (2, "slow"))  # of the boots: how many are lost, and how

_LEFT, _RIGHT, _TOP, _WIDTH, _HEIGHT = 70, 250, 50, 520, 300  # pixels
_STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #24292f } .title { font-weight: 600; font-size: 14px }
  .axis { stroke: #8c959f } .grid { stroke: #d0d7de } .line { fill: none; stroke-width: 2 }
  .c0 { stroke: #1a7f37 } .c1 { stroke: #0969da; stroke-dasharray: 7 3 } .c2 { stroke: #bf8700; stroke-dasharray: 2 3 }
  .c3 { stroke: #cf222e; stroke-dasharray: 9 3 2 3 } .c4 { stroke: #8250df }
  .c5 { stroke: #57606a; stroke-dasharray: 4 4 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .axis { stroke: #7d8590 } .grid { stroke: #30363d }
    .c0 { stroke: #3fb950 } .c1 { stroke: #58a6ff } .c2 { stroke: #d29922 } .c3 { stroke: #f85149 }
    .c4 { stroke: #bc8cff } .c5 { stroke: #9198a1 }
  }
"""


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`, with lines at `ticks`; logarithmic or not."""

    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    log: bool = True

    def place(self, value: float) -> float:
        """0 at the low end, 1 at the high one; values outside are put there."""
        value = max(self.low, min(value, self.high))
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def plot(title: str, x: Axis, y: Axis, series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Lines over two axes, with a legend on the right."""
    width, height = _LEFT + _WIDTH + _RIGHT, _TOP + _HEIGHT + 40
    bottom, right = _TOP + _HEIGHT, _LEFT + _WIDTH

    def px(value: float) -> float:
        return _LEFT + x.place(value) * _WIDTH

    def py(value: float) -> float:
        return bottom - y.place(value) * _HEIGHT

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{title}">',
        f"<style>{_STYLE}</style>",
        f'<text class="title" x="10" y="22">{title}</text>',
    ]
    for value, words in y.ticks:
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{py(value):.1f}" y2="{py(value):.1f}"/>'
        )
        parts.append(f'<text x="{_LEFT - 8}" y="{py(value) + 4:.1f}" text-anchor="end">{words}</text>')
    for value, words in x.ticks:
        parts.append(f'<text x="{px(value):.1f}" y="{bottom + 20}" text-anchor="middle">{words}</text>')
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    for number, (name, points) in enumerate(series.items()):
        path = " ".join(f"{px(a):.1f},{py(b):.1f}" for a, b in points)
        top = _TOP + 14 + 22 * number
        parts.append(f'<polyline class="line c{number}" points="{path}"/>')
        parts.append(
            f'<line class="line c{number}" x1="{right + 14}" x2="{right + 44}" y1="{top}" y2="{top}"/>'
        )
        parts.append(f'<text x="{right + 52}" y="{top + 4}">{name}</text>')
    return "\n".join([*parts, "</svg>", ""])


def plots(found: Findings) -> dict[str, str]:
    """The files beside the page, by name."""
    sizes = Axis(min(found.sizes), max(found.sizes), [(size, f"{size:,}") for size in found.sizes])
    slowest = {
        scenario.text.replace(" each, in the same", ", same"): [
            (workers, found.boots[scenario, workers].percentile(0.99) * 1000)
            for workers in found.sizes
            if (scenario, workers) in found.boots
        ]
        for scenario in dict.fromkeys(scenario for scenario, _ in found.boots)
        if scenario.planes == 3 and (scenario.lost, scenario.state) in DRAWN
    }
    decades = [(10.0**n, f"{10**n:,}") for n in range(-1, 6)]
    checks = {
        "apiha": [(w, found.rests[0, w].per_second + UPDATERS) for w in found.sizes],
        **{rival.name: [(w, rival.per_second(w)) for w in found.sizes] for rival in RIVALS},
    }
    still = {name: _still(times) for (name, state), times in found.notices.items() if state == "silent"}
    return {
        PLOTS[0]: plot(
            "Time to pinned by workers that boot at once: p99, ms (three control planes)",
            sizes,
            Axis(1.0, 10_000.0, [(10.0**n, f"{10**n:,}") for n in range(5)]),
            slowest,
        ),
        PLOTS[1]: plot(
            "Checks a second that one control plane gets, by workers",
            sizes,
            Axis(0.1, 100_000.0, decades),
            checks,
        ),
        PLOTS[2]: plot(
            "Share of the fleet that still gives new connections to a silent control plane",
            Axis(0.0, 100.0, [(float(n), f"{n} s") for n in range(0, 101, 10)], log=False),
            Axis(0.0, 1.0, [(n / 4, f"{n * 25} %") for n in range(5)], log=False),
            still,
        ),
    }


def _still(times: Sequence[float]) -> list[tuple[float, float]]:
    """The share of these that is greater than a moment, for every half second."""
    return [(second / 2, sum(time > second / 2 for time in times) / len(times)) for second in range(201)]
