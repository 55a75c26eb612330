"""Loads, reads and removes the table with the program `nft`: the only place that talks to the kernel's netfilter."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from apiha.endpoint import Endpoint
from apiha.errors import ApihaError, ExitCode, NotPermitted
from apiha.failfast import rules, tracking
from apiha.failfast.table import Table, parse_layout, parse_table
from apiha.preview import Preview

NFT_TIMEOUT = 10.0  # seconds; it takes some 0.02
_PATH = os.pathsep.join(("/usr/sbin", "/sbin", "/usr/local/sbin"))  # where users' PATHs may not lead

Done = Literal["loaded", "replaced", "refreshed", "unchanged"]


class Unsupported(ApihaError):
    """This machine cannot do it: `nft`, a feature of the kernel, or the right to use it is missing."""

    exit_code = ExitCode.UNSUPPORTED


class ForeignTable(ApihaError):
    """There is a table with apiha's name that apiha did not make."""

    exit_code = ExitCode.CONFLICT

    def __init__(self, table: str) -> None:
        super().__init__(
            f"the nftables table `{table}` is not from apiha: it was left alone; rename it, or set fail_fast: off"
        )


@dataclass(frozen=True)
class _Answer:
    """What a run of `nft` ended with."""

    ok: bool
    stdout: str
    why: str  # stderr in one line

    @property
    def missing(self) -> bool:
        """Whether it failed because a table, set or element is not there."""
        return not self.ok and "No such file or directory" in self.why


def read() -> Table | None:
    """The table as the kernel has it, or None if it is not loaded.

    Raises Unsupported, NotPermitted, ForeignTable.
    """
    shown = {name: document for name in _present() if (document := _list(name)) is not None}
    try:
        layouts = {name: parse_layout(document) for name, document in shown.items()}
        foreign = next((name for name, layout in layouts.items() if layout is None), None)
        if foreign is not None:
            raise ForeignTable(foreign)
        table = parse_table(shown[rules.TABLE]) if rules.TABLE in shown else None
    except ValueError as error:
        raise Unsupported(f"cannot read nftables: {error}") from None
    if table is None:
        return None
    return replace(table, knocks=all(layouts.get(name) == table.layout for name in rules.KNOCK_TABLES))


def text() -> str:
    """apiha's tables as `nft` prints them for people; empty if none is loaded. Raises Unsupported, NotPermitted."""
    shown = [_nft("list", "table", *name.split()) for name in _present()]
    failed = next((answer for answer in shown if not answer.ok and not answer.missing), None)
    if failed is not None:
        raise _failure("cannot read nftables", failed)
    return "".join(answer.stdout for answer in shown)


def load(endpoints: Iterable[Endpoint], mode: rules.Mode, preview: Preview | None = None) -> Done:
    """Have the kernel watch these control planes. One transaction; where the layout is the same, state is kept.

    With a `preview` the transaction is shown, and not made.

    Raises Unsupported, NotPermitted, ForeignTable.
    """
    wanted = frozenset(endpoints)
    before = read()
    has = before.features(mode) if before is not None else None
    tracked = (has is not None and has.forget) or tracking.in_use()
    for features in rules.VARIANTS:
        if features.forget and not tracked:
            continue
        if before is not None and features == has:
            if before.control_planes == wanted:
                return "unchanged"
            refreshed = _change(rules.refresh_script(wanted, knock=features.knock), preview)
            if refreshed.ok:
                return "refreshed"
            if not refreshed.missing:  # else flushed since it was read
                raise _failure("cannot change nftables", refreshed)
            before = None
        # If it fails, the kernel lacks a feature, most likely; what the rest needs, the last answer tells.
        loaded = _change(rules.load_script(wanted, mode, features), preview)
        if loaded.ok:
            return "loaded" if before is None else "replaced"
    raise _failure("cannot load the nftables table", loaded)


def remove(preview: Preview | None = None) -> bool:
    """Take the tables away, or show that; False if there are none. Raises Unsupported, NotPermitted, ForeignTable."""
    read()  # not somebody else's
    if not _present():
        return False
    removed = _change(rules.remove_script(), preview)
    if not removed.ok:
        raise _failure("cannot remove the nftables table", removed)
    return True


def _change(script: str, preview: Preview | None) -> _Answer:
    """Make one transaction; with a preview show it, if the kernel would take it."""
    if preview is None:
        return _nft("-f", "-", script=script)
    checked = _nft("--check", "-f", "-", script=script)
    if checked.ok:
        preview.command("nft", "-f", "-", stdin=script)
    return checked


def _present() -> list[str]:
    """Those of apiha's names that tables have now."""
    listed = _nft("--json", "list", "tables")
    if not listed.ok:
        raise _failure("cannot read nftables", listed)
    tables = [item["table"] for item in _document(listed).get("nftables", ()) if "table" in item]
    names = {f"{table.get('family')} {table.get('name')}" for table in tables}
    return [name for name in (rules.TABLE, *rules.KNOCK_TABLES) if name in names]


def _list(table: str) -> Any | None:
    """What nft says about a table, None if it was removed meanwhile."""
    shown = _nft("--json", "list", "table", *table.split())
    if shown.missing:
        return None
    if not shown.ok:
        raise _failure("cannot read nftables", shown)
    return _document(shown)


def _nft(*arguments: str, script: str | None = None) -> _Answer:
    """Run `nft`; raises Unsupported if it is not installed or does not return."""
    program = shutil.which("nft") or shutil.which("nft", path=_PATH)
    if program is None:
        raise Unsupported("the program `nft` is not installed: install the package nftables")
    try:
        done = subprocess.run(
            [program, *arguments],
            input=script or "",
            capture_output=True,
            text=True,
            errors="replace",
            timeout=NFT_TIMEOUT,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        raise Unsupported(f"`nft {' '.join(arguments)}` did not return within {NFT_TIMEOUT:g} s") from None
    except OSError as error:
        raise Unsupported(f"cannot run {program}: {error.strerror}") from None
    return _Answer(done.returncode == 0, done.stdout, " ".join(done.stderr.split())[:300])


def _document(answer: _Answer) -> Any:
    try:
        document = json.loads(answer.stdout)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise Unsupported("this `nft` cannot print JSON: install nftables 0.9.1 or later")
    return document


def _failure(what: str, answer: _Answer) -> ApihaError:
    if "Operation not permitted" in answer.why and os.geteuid() != 0:
        return NotPermitted(f"{what}: not permitted; run it as root")
    return Unsupported(f"{what} here: {answer.why or 'nft failed without a message'}")
