"""Says what `apiha status` and `apiha probe` found: text for people, JSON for programs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from apiha import __version__
from apiha.columns import columns
from apiha.durations import format_duration
from apiha.failfast.show import summary, table_json
from apiha.findings import Finding
from apiha.status.model import Answer, Status


def status_text(status: Status, *, problems_first: bool = False) -> str:
    """The status for people; each finding with what to do and where it is explained.

    `problems_first` for a screen that may be too low for all of it.
    """
    seen = status.seen
    head = [f"{seen.config.host} in {seen.hosts.path}: {status.meaning}"]
    if seen.hosts.block and seen.hosts.block.addresses:
        head.append("  " + ", then ".join(seen.hosts.block.addresses))
    if seen.drained:
        head.append(f"  drained for maintenance, so tried last: {', '.join(sorted(seen.drained))}")
    looked = [[probe_table(seen.answers)]] if seen.answers else []
    if seen.fail_fast.table is not None:
        looked.append(["Fail fast:", *(f"  {line}" for line in summary(seen.fail_fast.table))])
    if seen.units:
        looked.append(["Units:", columns([[unit.name, str(unit)] for unit in seen.units], indent="  ")])
    else:
        looked.append(["Units:", "  systemd does not run here"])
    problems = _problems(status.findings)
    parts = [head, problems, *looked] if problems_first else [head, *looked, problems]
    return "\n\n".join("\n".join(lines) for lines in parts)


def _problems(findings: Sequence[Finding]) -> list[str]:
    if not findings:
        return ["Nothing is wrong."]
    lines = ["Problems:"]
    for finding in findings:
        lines.append(f"  {finding.severity.value.upper()}: {finding.message}")
        lines += [f"    -> {finding.advice}", f"    see {finding.link}"]
    return lines


def status_json(status: Status) -> dict[str, Any]:
    """The status for programs."""
    seen, block = status.seen, status.seen.hosts.block
    return {
        "version": __version__,
        "host": seen.config.host,
        "role": seen.config.role,
        "hosts_file": str(seen.hosts.path),
        "block": {
            "present": bool(block and block.present),
            "meaning": status.meaning,
            "addresses": list(block.addresses) if block else [],
        },
        "drained": sorted(seen.drained) if seen.all_known else None,
        "answers": probe_json(seen.answers),
        "units": [
            {"name": u.name, "load": u.load, "active": u.active, "sub": u.sub, "enabled": u.enabled}
            for u in seen.units
        ],
        "fail_fast": {"setting": seen.config.fail_fast, **table_json(seen.fail_fast.table)},
        "findings": [
            {
                "severity": finding.severity.value,
                "code": finding.code,
                "message": finding.message,
                "advice": finding.advice,
                "link": finding.link,
            }
            for finding in status.findings
        ],
        "exit_code": int(status.exit_code),
    }


def probe_table(answers: Sequence[Answer]) -> str:
    """The answers as a table for people."""
    rows = [["ADDRESS", "ROLE", "STATE", "HTTP", "LATENCY", "CERT EXPIRES", "WHY"]]
    for answer in answers:
        result = answer.result
        rows.append(
            [
                str(result.endpoint),
                answer.role,
                result.health.value,
                str(result.status or "-"),
                format_duration(result.latency),
                result.certificate_expires.strftime("%Y-%m-%d") if result.certificate_expires else "-",
                "" if result.detail == result.health.value else result.detail,
            ]
        )
    return columns(rows)


def probe_json(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """The answers for programs: times in RFC 3339 (UTC), latency in seconds."""
    return [
        {
            "address": answer.result.endpoint.address,
            "port": answer.result.endpoint.port,
            "role": answer.role,
            "state": answer.result.health.value,
            "http_status": answer.result.status,
            "latency_seconds": round(answer.result.latency, 6),
            "certificate_expires": _json_time(answer.result.certificate_expires),
            "server_time": _json_time(answer.result.server_time),
            "why": answer.result.detail,
        }
        for answer in answers
    ]


def _json_time(moment: datetime | None) -> str | None:
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ") if moment else None
