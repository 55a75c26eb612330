"""What `--dry-run` says instead of doing it: a unified diff of each file, the command line of each process."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

NOTHING = "/dev/null"  # diff(1)'s name for a file that is not there


class Preview:
    """Takes the changes of a run that changes nothing, and prints each as it comes."""

    def __init__(self, write: Callable[[str], None]) -> None:
        """`write` gets whole lines, without the last newline."""
        self._write = write
        self.changes = 0

    def file(
        self, path: str | os.PathLike[str], before: bytes | None, after: bytes | None, *, context: int = 3
    ) -> None:
        """A file would be written, or removed (`after` is None); `before` is None where there is none yet."""
        if before == after:
            return
        self.changes += 1
        name = os.fspath(path)
        if b"\0" in (before or b"") + (after or b""):
            self._write(
                f"would remove {name}"
                if after is None
                else f"would write {name}: {len(after)} bytes, not text"
            )
            return
        self._write(
            "\n".join(
                _diff(
                    _lines(before),
                    _lines(after),
                    NOTHING if before is None else name,
                    NOTHING if after is None else name,
                    context,
                )
            )
        )

    def link(self, path: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
        """A symlink would be made."""
        self.command("ln", "-s", os.fspath(target), os.fspath(path))

    def command(self, *words: str, stdin: str = "") -> None:
        """A command would be run."""
        import shlex  # here, and difflib below: each pin of a boot imports this module, and shows nothing

        self.changes += 1
        line = f"would run: {shlex.join(words)}"
        self._write(f"{line} <<'END'\n{stdin.rstrip()}\nEND" if stdin else line)


def _lines(data: bytes | None) -> Sequence[str]:
    # Not splitlines: it would also split at bytes that are no line ends to a hosts file.
    return [] if not data else data.decode("utf-8", "backslashreplace").split("\n")


def _diff(before: Sequence[str], after: Sequence[str], old: str, new: str, context: int) -> list[str]:
    """The lines of a unified diff, as diff(1) and patch(1) have them."""
    import difflib

    ends = ["\\ No newline at end of file"]
    marked = [
        [line + "\n" for line in lines[:-1]] + ([f"{lines[-1]}\n{ends[0]}\n"] if lines and lines[-1] else [])
        for lines in (before, after)
    ]
    return "".join(difflib.unified_diff(marked[0], marked[1], old, new, n=context)).rstrip("\n").split("\n")
