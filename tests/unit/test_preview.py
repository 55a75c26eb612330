"""What `--dry-run` prints: diffs that patch(1) takes, commands that a shell takes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from apiha.preview import Preview

TEXTS = [
    (b"a\nb\nc\n", b"a\nB\nc\n"),
    (b"a\nb", b"a\nb\nc\n"),
    (b"a\nb\n", b"a\nb"),
    (b"a", b"b"),
    (b"", b"a\n"),
    (b"x\n" * 20 + b"a\n" + b"y\n" * 20, b"x\n" * 20 + b"b\n" + b"y\n" * 20),
    (b"a\r\nb\r\n\x0cc\x1d\n", b"a\r\nB\r\n\x0cc\x1d\n"),
]


@pytest.mark.parametrize(("before", "after"), TEXTS)
def test_patch_makes_the_one_of_the_other(before: bytes, after: bytes, tmp_path: Path) -> None:
    """Line ends and a missing last newline included."""
    if shutil.which("patch") is None:
        pytest.skip("needs patch: install it")
    shown: list[str] = []
    Preview(shown.append).file(tmp_path / "file", before, after)
    (tmp_path / "file").write_bytes(before)
    done = subprocess.run(
        ["patch", "--binary", str(tmp_path / "file")],
        input="\n".join(shown).encode() + b"\n",
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done
    assert (tmp_path / "file").read_bytes() == after


def test_a_new_file_a_removed_one_and_no_change() -> None:
    """As diff(1) names them."""
    shown: list[str] = []
    preview = Preview(shown.append)
    preview.file("/etc/new", None, b"a\n")
    preview.file("/etc/old", b"a\n", None)
    preview.file("/etc/same", b"a\n", b"a\n")
    assert shown == [
        "--- /dev/null\n+++ /etc/new\n@@ -0,0 +1 @@\n+a",
        "--- /etc/old\n+++ /dev/null\n@@ -1 +0,0 @@\n-a",
    ]
    assert preview.changes == 2


def test_what_is_no_text_is_not_printed() -> None:
    """Its size is; bytes that are not UTF-8 are escaped."""
    shown: list[str] = []
    preview = Preview(shown.append)
    preview.file("/usr/local/bin/apiha", None, b"PK\0\0")
    preview.file("/usr/local/bin/apiha", b"PK\0\0", None)
    preview.file("/etc/hosts", b"# caf\xe9\n", b"# caf\xe9\nx\n")
    assert shown[0] == "would write /usr/local/bin/apiha: 4 bytes, not text"
    assert shown[1] == "would remove /usr/local/bin/apiha"
    assert "\\xe9" in shown[2]


def test_commands_are_quoted() -> None:
    """With what they are fed."""
    shown: list[str] = []
    preview = Preview(shown.append)
    preview.command("systemctl", "enable", "a b")
    preview.command("nft", "-f", "-", stdin="table inet apiha\n")
    preview.link("/etc/x.wants/a", "/etc/a")
    assert shown == [
        "would run: systemctl enable 'a b'",
        "would run: nft -f - <<'END'\ntable inet apiha\nEND",
        "would run: ln -s /etc/a /etc/x.wants/a",
    ]
