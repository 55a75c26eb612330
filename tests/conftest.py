"""What holds for every test."""

from __future__ import annotations

from hypothesis import settings

# A loaded machine is no reason to fail: no property here is about the time that an example takes.
settings.register_profile("apiha", deadline=None)
settings.load_profile("apiha")
