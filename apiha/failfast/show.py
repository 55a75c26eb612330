"""The table for people and for programs. Pure."""

from __future__ import annotations

from typing import Any

from apiha.failfast.table import Table

_HEADER = ("CONTROL PLANE", "CLIENTS", "STATE", "SILENCES", "CUT", "REFUSED")


def table_text(table: Table) -> str:
    """One line for each breaker."""
    rows = [_HEADER]
    for breaker in table.breakers:
        counts = (str(breaker.silences), str(breaker.cut), str(breaker.refused))
        rows.append((str(breaker.endpoint), breaker.scope, breaker.state, *counts))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def table_json(table: Table | None) -> dict[str, Any]:
    """The same for programs; the keys are documented in docs/cli.md and stay."""
    if table is None:
        return {"loaded": False, "mode": None, "knocks": False, "breakers": []}
    return {
        "loaded": True,
        "mode": table.mode,
        "knocks": table.knocks,
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
