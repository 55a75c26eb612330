"""What can be wrong with fail fast, and what it found: checks of the table in `apiha.status.checks`. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from apiha.node.choice import addresses_to_watch
from apiha.status.model import Found, Observations, UnitState

UNIT = "apiha-failfast.service"


def not_in_force(seen: Observations) -> Iterator[Found]:
    """The table should be there, made by this version for these control planes, and is not."""
    view, mode = seen.fail_fast, seen.config.fail_fast
    unit = _unit(seen)
    if view.hidden or not seen.configured:
        return
    if view.problem:
        if mode != "off" and unit is not None:
            yield Found(f"fail fast does not work here: {view.problem}")
    elif view.table is None:
        if mode != "off" and unit is not None:
            yield Found(f"fail fast is not loaded: {UNIT} is {unit}", advice=_way_back(unit))
    elif mode == "off":
        yield Found(
            "fail_fast is off, and the nftables table is there all the same", advice="`apiha fail-fast off`"
        )
    elif view.table.features(mode) is None:
        yield Found(
            f"fail fast was loaded with other settings (mode {view.table.mode}) or by another version"
        )
    elif seen.all_known:
        wanted = addresses_to_watch(seen.control_planes, seen.config.vip)
        if lacking := [str(endpoint) for endpoint in wanted if endpoint not in view.table.control_planes]:
            yield Found(f"fail fast does not watch {', '.join(lacking)}")


def _unit(seen: Observations) -> UnitState | None:
    """The unit, if it is installed: without, nothing is expected."""
    return next((unit for unit in seen.units if unit.name == UNIT and unit.load != "not-found"), None)


def _way_back(unit: UnitState) -> str:
    if unit.active == "failed":
        return f"`journalctl -u {UNIT} -b` says why; `systemctl restart {UNIT}` tries again"
    if unit.enabled == "disabled":
        return f"`systemctl enable --now {UNIT}`, or set fail_fast: off"
    return f"`systemctl restart {UNIT}`"


def silent(seen: Observations) -> Iterator[Found]:
    """Control planes that the kernel refuses now."""
    if seen.fail_fast.table is not None:
        for breaker in seen.fail_fast.table.silent:
            yield Found(str(breaker))
