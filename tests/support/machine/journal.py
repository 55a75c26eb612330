"""What a machine's journal holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """A line of the journal. `at`: seconds of the kernel's monotonic clock, inside and out.

    `invocation` tells the runs of a unit apart.
    """

    at: float
    message: str
    unit: str
    invocation: str
    identifier: str
    priority: int


def entries(lines: str) -> Iterator[Entry]:
    """Journal entries of `journalctl --output=json` (systemd.journal-fields(7))."""
    for line in lines.splitlines():
        fields = json.loads(line)
        message = fields.get("MESSAGE") or ""
        yield Entry(
            at=int(fields["__MONOTONIC_TIMESTAMP"]) / 1e6,
            message=bytes(message).decode(errors="replace") if isinstance(message, list) else message,
            # What pid 1 says about a unit carries UNIT; what the unit itself says carries _SYSTEMD_UNIT.
            unit=fields.get("UNIT") or fields.get("_SYSTEMD_UNIT", ""),
            invocation=fields.get("INVOCATION_ID") or fields.get("_SYSTEMD_INVOCATION_ID", ""),
            identifier=fields.get("SYSLOG_IDENTIFIER", ""),
            priority=int(fields.get("PRIORITY", 6)),
        )
