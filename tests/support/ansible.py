"""`ansible-playbook` against a machine: over something that Ansible takes for ssh, and nsenter(1) in fact.

fleet = Fleet(folder, machine, kubectl)
done = fleet.play("--check", apiha_state="absent")
assert done.changed == 0
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.machine import Machine

REPOSITORY = Path(__file__).resolve().parents[2]
PLAYBOOK = REPOSITORY / "deploy/ansible/site.yml"
PROGRAM = REPOSITORY / ".venvs/ansible/bin/ansible-playbook"

# Ansible gives ssh its options, a host, and a command for the login shell there.
_SSH = """\
#!/bin/sh
for word; do host=$command command=$word; done
[ "$host" = worker-1 ] || {{ echo "ssh: connect to host $host port 22: No route to host" >&2; exit 255; }}
exec nsenter --target {pid} --all -- env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 sh -c "$command"
"""


@dataclass(frozen=True)
class Played:
    """What came of one run: exit code, output, and for each host that was touched the numbers of the recap."""

    code: int
    output: str
    hosts: dict[str, dict[str, int]]

    @property
    def changed(self) -> int:
        """How many tasks changed something on worker-1."""
        return self.hosts["worker-1"]["changed"]


class Fleet:
    """An inventory with a `machine` that is on, as worker-1, and worker-2, to which no way leads.

    `kubectl` is an administrator's, with its options, on this machine; `variables` are those of the role.
    """

    def __init__(self, folder: Path, machine: Machine, kubectl: Sequence[str], **variables: Any) -> None:
        self.folder = folder
        ssh = folder / "ssh"
        ssh.write_text(_SSH.format(pid=machine.pid))
        ssh.chmod(0o755)
        shared = {
            "ansible_connection": "ssh",
            "ansible_ssh_executable": str(ssh),
            "ansible_ssh_args": "-q",
            "ansible_ssh_transfer_method": "piped",
            "ansible_python_interpreter": "/usr/bin/python3",
            "ansible_pipelining": True,
            "apiha_become": False,
            "apiha_kubectl": list(kubectl),
            "apiha_kubectl_host": "localhost",
            **variables,
        }
        local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        inventory = {
            "all": {"hosts": {"localhost": local}},
            "workers": {"hosts": {"worker-1": {}, "worker-2": {}}, "vars": shared},
        }
        (folder / "inventory.json").write_text(json.dumps(inventory))

    def play(self, *arguments: str, limit: str = "worker-1", **variables: Any) -> Played:
        """Run the playbook to its end."""
        command = [str(PROGRAM), "-i", str(self.folder / "inventory.json"), str(PLAYBOOK)]
        command += ["--limit", f"{limit},localhost", "--extra-vars", json.dumps(variables), *arguments]
        environment = {
            "PATH": f"{PROGRAM.parent}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_LOCALHOST_WARNING": "0",
        }
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, cwd=self.folder
        )
        recap = done.stdout.partition("PLAY RECAP")[2]
        hosts = {
            name: {key: int(number) for key, number in re.findall(r"(\w+)=(\d+)", numbers)}
            for name, numbers in re.findall(r"^(\S+)\s+: (ok=.*)$", recap, re.MULTILINE)
        }
        return Played(done.returncode, done.stdout + done.stderr, hosts)
