"""What holds for every test."""

from __future__ import annotations

from hypothesis import settings

# No deadline: a loaded machine is no reason to fail, and no property here is about the time an example takes.
# No database: tests write nothing into the checkout, which may be read-only; a failure prints how to replay it.
settings.register_profile("apiha", deadline=None, database=None, print_blob=True)
settings.load_profile("apiha")
