"""The kernel's table as metrics. Pure."""

from __future__ import annotations

from collections.abc import Callable

from apiha.failfast.table import Breaker, Table
from apiha.textfile import Family, Sample, gauge

_PREFIX = "apiha_node_fail_fast"


def families(table: Table | None) -> list[Family]:
    """What the table says; `table` is None if it is not loaded. The kernel counts since it was loaded."""

    def each(name: str, text: str, value: Callable[[Breaker], float], *, counts: bool = True) -> Family:
        samples = [
            Sample(value(breaker), {"address": str(breaker.endpoint), "clients": breaker.scope})
            for breaker in (table.breakers if table is not None else ())
        ]
        return Family(f"{_PREFIX}_{name}", "counter" if counts else "gauge", text, tuple(samples))

    return [
        gauge(
            f"{_PREFIX}_loaded",
            "1 if the kernel has the table that refuses silent control planes, else 0",
            float(table is not None),
        ),
        each(
            "silent",
            "1 if the kernel refuses this control plane, because it does not answer, else 0",
            lambda breaker: float(breaker.silent_for is not None),
            counts=False,
        ),
        each("silences_total", "How often this control plane fell silent", lambda breaker: breaker.silences),
        each(
            "cut_connections_total",
            "Connections to this control plane that were reset because it was silent",
            lambda breaker: breaker.cut,
        ),
        each(
            "refused_connections_total",
            "New connections to this control plane that were refused because it was silent",
            lambda breaker: breaker.refused,
        ),
    ]
