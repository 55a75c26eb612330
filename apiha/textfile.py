"""Metrics as text: Prometheus's exposition format, in files for node_exporter's textfile collector.

The format: https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format. The collector reads each
`*.prom` of its folder: https://github.com/prometheus/node_exporter#textfile-collector.
"""

from __future__ import annotations

import errno
import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from apiha import files

NODE_FILE = "apiha_node.prom"  # written by pin-host, wait-vip, bootstrap and reconcile
FAIL_FAST_FILE = "apiha_failfast.prom"  # written by fail-fast, which alone may read the kernel's table
LONGEST_WRITE = 2.0  # seconds; it takes milliseconds, and kubelet waits for the pin that writes
_ESCAPES = {"\\": r"\\", "\n": r"\n", '"': r"\""}


@dataclass(frozen=True)
class Sample:
    """One value of a metric, with its labels."""

    value: float
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Family:
    """One metric: its name, what it means, and its values. One without values is left out."""

    name: str
    kind: Literal["gauge", "counter"]
    help: str
    samples: tuple[Sample, ...]


def gauge(name: str, text: str, value: float | None, **labels: str) -> Family:
    """A gauge with one value, or none."""
    return Family(name, "gauge", text, () if value is None else (Sample(value, labels),))


def render(families: Iterable[Family]) -> str:
    """The text of all of them. Pure."""
    lines = []
    for family in families:
        if family.samples:
            lines += [f"# HELP {family.name} {_escaped(family.help, quotes=False)}"]
            lines += [f"# TYPE {family.name} {family.kind}"]
            lines += [f"{family.name}{_labels(each.labels)} {_number(each.value)}" for each in family.samples]
    return "".join(f"{line}\n" for line in lines)


def value_of(name: str, text: str) -> float | None:
    """The value of a metric without labels in such a text; None if it is not there, or not a finite number."""
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    try:
        value = float(found[1]) if found else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def put(folder: Path, name: str, make: Callable[[str], str], warn: Callable[[str], None]) -> None:
    """Replace the file by what `make` makes of its old text. Never raises: `warn` gets one line if it fails.

    Nobody waits longer than `LONGEST_WRITE` for it: the folder may be on a server that is gone.
    """
    failures: list[str] = []

    def work() -> None:
        try:
            write(folder, name, make(_read(folder, name)))
        except OSError as error:
            failures.append(_explain(folder, name, error))
        except Exception as error:  # whatever it is, the block matters more
            failures.append(f"metrics not written: {type(error).__name__}: {error}")

    worker = threading.Thread(target=work, daemon=True)
    try:
        worker.start()
    except RuntimeError as error:  # no thread to be had
        failures.append(f"metrics not written: {error}")
    else:
        worker.join(LONGEST_WRITE)
        if worker.is_alive():
            failures.append(
                f"textfile_dir: {folder}: no answer within {LONGEST_WRITE:g} s, so no metrics were written"
            )
    for line in tuple(failures):
        warn(line)


def write(folder: Path, name: str, text: str) -> None:
    """Put the file in its place, whole: the collector never reads half of it. Everybody may read it. Raises OSError.

    It does not have to survive a power cut: the next boot writes another one.
    """
    path = str(folder / name)
    files.sweep(path, now=time.time())  # what killed runs left
    files.write_whole(path, text.encode(), lambda descriptor: os.fchmod(descriptor, 0o644), durable=False)


def written(folder: Path) -> list[Path]:
    """The files that are there."""
    return [folder / name for name in (NODE_FILE, FAIL_FAST_FILE) if os.path.lexists(folder / name)]


def _read(folder: Path, name: str) -> str:
    """What an earlier run wrote; empty if that cannot be read."""
    try:
        return files.read(str(folder / name))[0].decode("utf-8", "replace")
    except OSError:
        return ""


def _explain(folder: Path, name: str, error: OSError) -> str:
    """Why the metrics were not written, and what to do about it."""
    why = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        advice = "make room there, or set another folder"
    elif error.errno == errno.EISDIR:
        why, advice = f"{name} there is a folder", "remove it"
    else:
        advice = "the folder must exist and belong to root, and `apiha install` lets the units write there"
    return f"textfile_dir: {folder}: cannot write metrics: {why}; {advice}"


def _labels(labels: Mapping[str, str]) -> str:
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{pairs}}}" if pairs else ""


def _escaped(text: str, *, quotes: bool = True) -> str:
    return "".join(_ESCAPES.get(c, c) if quotes or c != '"' else c for c in text)


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))
