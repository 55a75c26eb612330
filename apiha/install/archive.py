"""`apiha.pyz` for the Python of this machine: its first line, and the compiled code beside the sources in it."""

from __future__ import annotations

import importlib.util
import io
import marshal
import zipfile

_UNCHECKED_HASH = (
    b"\x01\x00\x00\x00"  # PEP 552: the code belongs to the source beside it, nobody needs to look
)


def for_interpreter(archive: bytes, interpreter: str) -> bytes:
    """The archive with compiled code for the running Python, to be run by `interpreter`.

    Python compiles what it imports from an archive at every start, unless the archive holds code that was compiled by
    its own version; it falls back to the sources after its next upgrade. -I and -S (python(1)): nothing of the
    environment, the user's folders or site-packages plays a part; the archive has all it needs. Raises
    zipfile.BadZipFile.
    """
    return f"#!{interpreter} -IS\n".encode() + _compiled(archive)


def _compiled(archive: bytes) -> bytes:
    """A zip archive with the same sources, and code compiled from each of them."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as before, zipfile.ZipFile(out, "w") as after:
        for entry in before.infolist():
            if entry.filename.endswith(".pyc"):
                continue
            data = before.read(entry)
            after.writestr(entry, data)
            if entry.filename.endswith(".py") and entry.filename != "__main__.py":
                code = marshal.dumps(compile(data, entry.filename, "exec", dont_inherit=True))
                head = importlib.util.MAGIC_NUMBER + _UNCHECKED_HASH + importlib.util.source_hash(data)
                after.writestr(zipfile.ZipInfo(f"{entry.filename}c", entry.date_time), head + code)
    return out.getvalue()
