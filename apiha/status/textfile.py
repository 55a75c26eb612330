"""Writes what a pass found for node_exporter's textfile collector, if `textfile_dir` is set. Never fails a pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from apiha import textfile
from apiha.endpoint import Endpoint
from apiha.errors import ApihaError
from apiha.node.context import Node
from apiha.probe import ProbeResult


@contextmanager
def told(node: Node, *, ask: bool = False) -> Iterator[None]:
    """Around a pass: note what its probes found, and write the metrics when it has ended, well or with an ApihaError.

    With `ask` control planes are asked where the pass asks none. A dry run writes none.
    """
    if node.config.textfile_dir is None or node.preview is not None:
        yield
        return
    seen: dict[Endpoint, ProbeResult] = {}

    def note(result: ProbeResult) -> None:
        seen[result.endpoint] = result

    node.observe = note
    try:
        yield
    except ApihaError:
        _write(node, seen, good=False, ask=ask)
        raise
    _write(node, seen, good=True, ask=ask)


def _write(node: Node, seen: dict[Endpoint, ProbeResult], *, good: bool, ask: bool) -> None:
    """Write the metrics; `good` is whether the pass did what it is for. What goes wrong is only logged."""
    folder = node.config.textfile_dir
    assert folder is not None
    try:
        # Here, for a boot waits for a pin: where nobody wants metrics, nothing of this is loaded.
        from apiha.status.checks import judge
        from apiha.status.machine import look_after_pass
        from apiha.status.metrics import LAST_SUCCESS, families

        now = node.clock.now()
        results = list(seen.values())  # probes that lost a race may still be answered
        status = judge(
            look_after_pass(node.config, node.hosts.path, node.state_dir, results, now=now, ask=ask)
        )

        def text(before: str) -> str:
            # The clock may have been ahead: nothing happened later than now.
            last = now.timestamp() if good else textfile.value_of(LAST_SUCCESS, before) or 0.0
            return textfile.render(families(status, min(last, now.timestamp())))

        textfile.put(folder, textfile.NODE_FILE, text, node.report.warning)
    except Exception as error:  # whatever it is, the block matters more
        node.report.warning(f"metrics not written: {type(error).__name__}: {error}")
