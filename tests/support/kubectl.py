"""A kubectl that knows what it was told: a program called `kubectl` in a folder for PATH.

    kubectl = StandInKubectl(folder)
    kubectl.objects["/api/v1/namespaces/default/..."] = {...}
    kubectl.refused["create"] = 'Error from server (Forbidden): secrets is forbidden'

It answers `get --raw PATH`, `create -f -` and `config view`, refuses in kubectl's words, and keeps what it creates.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

_PROGRAM = """\
#!{python} -IS
import json, sys, pathlib
folder = pathlib.Path({folder!r})
told = json.loads((folder / "told.json").read_text())
words = [word for word in sys.argv[1:] if not word.startswith(("--request-timeout", "--kubeconfig"))]
def refuse(text):
    sys.exit(text)
if words[0] in told["refused"]:
    refuse(told["refused"][words[0]])
if words[0] == "get":
    path = words[2].partition("?")[0]
    if path in told["refused"]:
        refuse(told["refused"][path])
    if path not in told["objects"]:
        refuse("Error from server (NotFound): the server could not find the requested resource")
    print(json.dumps(told["objects"][path]))
elif words[0] == "create":
    items = json.load(sys.stdin)["items"]
    with (folder / "created.jsonl").open("a") as file:
        file.writelines(json.dumps(item) + "\\n" for item in items)
    print("---\\n".join(json.dumps(item) + "\\n" for item in items))
elif words[:2] == ["config", "view"]:
    print(json.dumps({{"clusters": [{{"cluster": told["kubeconfig"]}}]}}))
else:
    refuse(f"a kubectl that does not know {{words}}")
"""


class StandInKubectl:
    """The program, in `folder`; what it was told last is what it answers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.objects: dict[str, Any] = {}
        self.refused: dict[str, str] = {}
        """A verb, or the path of an object, to what kubectl says on stderr."""
        self.kubeconfig: dict[str, str] = {}
        """The cluster of the kubeconfig's current context."""
        folder.mkdir(parents=True, exist_ok=True)
        program = folder / "kubectl"
        program.write_text(_PROGRAM.format(python=sys.executable, folder=str(folder)))
        program.chmod(0o755)

    def tell(self) -> None:
        """Write down what it is to answer; call it after the last change."""
        told = {"objects": self.objects, "refused": self.refused, "kubeconfig": self.kubeconfig}
        (self.folder / "told.json").write_text(json.dumps(told))

    @property
    def created(self) -> list[dict[str, Any]]:
        """The objects that were created, in their order."""
        file = self.folder / "created.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
