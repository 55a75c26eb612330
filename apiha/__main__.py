"""`python -m apiha` and the entry point of `apiha.pyz`."""

from __future__ import annotations

from apiha.cli.main import main

if __name__ == "__main__":
    main()
