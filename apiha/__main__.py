"""`python -m apiha`."""

from __future__ import annotations

from apiha.start import main

if __name__ == "__main__":
    main()
