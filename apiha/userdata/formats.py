"""The files, commands and units as first-boot programs read them: cloud-init, Ignition, Butane. Pure."""

from __future__ import annotations

import base64
import json
import urllib.parse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from apiha.userdata.pieces import NodeFile, Unit

IGNITION_VERSION = "3.3.0"  # https://coreos.github.io/ignition/configuration-v3_3/
# The same specification in Butane: https://coreos.github.io/butane/config-fcos-v1_4/
BUTANE = {"variant": "fcos", "version": "1.4.0"}
# Stands for the program while YAML is written: PyYAML takes seconds to find that base64 needs no quotes.
_PROGRAM = "H4sI-program"


class _Octal(int):
    """A file's mode."""


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as they are, modes in octal, lists indented below their key."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        super().increase_indent(flow, indentless=False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(
    _Octal, lambda dumper, mode: dumper.represent_scalar("tag:yaml.org,2002:int", f"0{mode:o}")
)


def _yaml(document: Any, files: Sequence[NodeFile]) -> str:
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=10**6, allow_unicode=True)
    for file in files:
        if file.gzipped is not None:
            text = text.replace(_PROGRAM, base64.b64encode(file.gzipped).decode())
    return text


def cloud_config(files: Sequence[NodeFile], commands: Sequence[str]) -> str:
    """A `#cloud-config` (https://cloudinit.readthedocs.io): `write_files`, then `runcmd`."""
    written: list[dict[str, Any]] = []
    for file in files:
        entry: dict[str, Any] = {"path": str(file.path), "permissions": f"{file.mode:04o}"}
        if file.gzipped is not None:
            entry |= {"encoding": "gz+b64", "content": _PROGRAM}
        else:
            entry["content"] = file.text
        written.append(entry)
    document = {
        # Keeps a line for the machine's own name; `true` would write the whole hosts file anew at each boot.
        "manage_etc_hosts": "localhost",
        "write_files": written,
        "runcmd": list(commands),
    }
    return "#cloud-config\n" + _yaml(document, files)


def ignition(files: Sequence[NodeFile], units: Sequence[Unit]) -> str:
    """An Ignition configuration (JSON)."""
    document = {
        "ignition": {"version": IGNITION_VERSION},
        "storage": {
            "files": [
                # `overwrite`: an image may have a configuration that serves no cluster.
                {"path": str(file.path), "mode": file.mode, "overwrite": True, "contents": _contents(file)}
                for file in files
            ]
        },
        "systemd": {"units": [_unit(unit) for unit in units]},
    }
    return json.dumps(document, indent=1) + "\n"


def _contents(file: NodeFile) -> dict[str, Any]:
    """Ignition's `contents`: a `source`, and how to check or unpack it."""
    if file.gzipped is not None:
        encoded = base64.b64encode(file.gzipped).decode()
        return {"source": f"data:;base64,{encoded}", "compression": "gzip"}
    if file.url is not None:
        return {"source": file.url, "verification": {"hash": f"sha256-{file.sha256}"}}
    return {"source": "data:," + urllib.parse.quote(file.text or "", safe="/:=,")}


def _unit(unit: Unit) -> dict[str, Any]:
    """Ignition's and Butane's entry for a unit; one that other units start says nothing about being enabled."""
    return {"name": unit.name, **({"enabled": True} if unit.enabled else {}), "contents": unit.text}


def butane(files: Sequence[NodeFile], units: Sequence[Unit]) -> str:
    """A Butane configuration (YAML), which `butane` makes the same Ignition configuration of."""
    written: list[dict[str, Any]] = []
    for file in files:
        contents = {"inline": file.text} if file.text is not None else _contents(file)
        if file.gzipped is not None:
            contents = {"source": f"data:;base64,{_PROGRAM}", "compression": "gzip"}
        written.append(
            {"path": str(file.path), "mode": _Octal(file.mode), "overwrite": True, "contents": contents}
        )
    document = {
        **BUTANE,
        "storage": {"files": written},
        "systemd": {"units": [_unit(unit) for unit in units]},
    }
    return _yaml(document, files)
