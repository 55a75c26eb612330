"""Run the measurements: `python -m tests.bench [NAME...]`, all of them without a name. Prints tables."""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path

# Every module here with a main() is a measurement; it returns 0 if what it promises is kept.
NAMES = sorted(
    path.stem for path in Path(__file__).parent.glob("[a-z]*.py") if "\ndef main(" in path.read_text()
)


def main(names: list[str]) -> int:
    """Run each; the exit code is 1 if one of them could not run, or does not keep what it promises."""
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        print(
            f"bench: no such measurement: {', '.join(unknown)}; there are {', '.join(NAMES)}", file=sys.stderr
        )
        return 2
    failed = []
    for name in names or NAMES:
        start = time.monotonic()
        module = importlib.import_module(f"tests.bench.{name}")
        print(f"\n# {name}: {(module.__doc__ or '').splitlines()[0]}\n", flush=True)
        sys.argv = [f"tests.bench.{name}"]  # each one reads its own options when run by itself
        if module.main():
            failed.append(name)
        print(f"\n({name}: {time.monotonic() - start:.0f} s)", flush=True)
    if failed:
        print(f"\nbench: not as promised, or not measured: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
