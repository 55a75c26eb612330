"""The table for people and for programs. Pure."""

from __future__ import annotations

from typing import Any

from apiha.columns import columns
from apiha.failfast.table import Table

_HEADER = ("CONTROL PLANE", "CLIENTS", "STATE", "SILENCES", "CUT", "REFUSED")


def table_text(table: Table) -> str:
    """One line for each breaker."""
    rows = [_HEADER]
    for breaker in table.breakers:
        counts = (str(breaker.silences), str(breaker.cut), str(breaker.refused))
        rows.append((str(breaker.endpoint), breaker.scope, breaker.state, *counts))
    return columns(rows)


def summary(table: Table) -> list[str]:
    """How many are watched and silent, then the breakers that have anything to tell."""
    watched, silent = len(table.control_planes), len({breaker.endpoint for breaker in table.silent})
    first = f"{watched} control plane{'' if watched == 1 else 's'} watched, {silent or 'none'} silent"
    told = [b for b in table.breakers if b.silent_for is not None or b.silences or b.cut or b.refused]
    return [first, *map(str, told)]


def table_json(table: Table | None) -> dict[str, Any]:
    """The same for programs; the keys are documented in docs/cli.md and stay."""
    if table is None:
        return {"loaded": False, "mode": None, "knocks": False, "forgets": False, "breakers": []}
    features = table.features(table.mode)
    return {
        "loaded": True,
        "mode": table.mode,
        "knocks": table.knocks,
        "forgets": features is not None and features.forget,
        "breakers": [
            {
                "address": breaker.endpoint.address,
                "port": breaker.endpoint.port,
                "clients": breaker.scope,
                "silent_seconds": breaker.silent_for,
                "silences": breaker.silences,
                "connections_cut": breaker.cut,
                "connections_refused": breaker.refused,
            }
            for breaker in table.breakers
        ],
    }
