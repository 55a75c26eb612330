"""Run the measurements: `python -m tests.bench [NAME...]`, all of them without a name. Prints tables."""

from __future__ import annotations

import importlib
import sys
import time

NAMES = ("pin_host", "fleet", "updater")


def main(names: list[str]) -> int:
    """Run each; the exit code is 1 if one of them could not run."""
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        print(
            f"bench: no such measurement: {', '.join(unknown)}; there are {', '.join(NAMES)}", file=sys.stderr
        )
        return 2
    failed = False
    for name in names or NAMES:
        start = time.monotonic()
        module = importlib.import_module(f"tests.bench.{name}")
        print(f"\n# {name}: {(module.__doc__ or '').splitlines()[0]}\n", flush=True)
        sys.argv = [f"tests.bench.{name}"]  # each one reads its own options when run by itself
        code = module.main()
        failed = failed or bool(code)
        print(f"\n({name}: {time.monotonic() - start:.0f} s)", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
