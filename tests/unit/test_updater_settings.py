"""What the command line says, checked."""

from __future__ import annotations

from typing import Any

import pytest

from apiha.errors import ConfigError

pytest.importorskip("kubernetes", reason="needs the updater's packages: pip install '.[updater]'")
pytest.importorskip("prometheus_client", reason="needs the updater's packages: pip install '.[updater]'")

from apiha.updater.run import Settings


@pytest.mark.parametrize(
    ("setting", "flag"),
    [({"namespace": "A_b"}, "--namespace"), ({"service": "a.b"}, "--service"), ({"host": "-"}, "--host")],
)
def test_names_that_are_none_are_refused(setting: dict[str, str], flag: str) -> None:
    """With the flag that they came from."""
    values: dict[str, Any] = dict(setting)
    with pytest.raises(ConfigError, match=flag):
        Settings(**values).checked()
