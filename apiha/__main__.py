"""`python -m apiha` and the entry point of `apiha.pyz`."""

from __future__ import annotations

from apiha.cli import main

if __name__ == "__main__":
    main()
