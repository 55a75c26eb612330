"""How apiha starts: what `apiha pin-host` loads before it works, and a ^C before anything works."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.probing import StartPlane, WriteConfig

# Most of what was found to be loaded for nothing at some time, and what other commands need.
NEEDLESS = (
    *("asyncio", "pygments", "rich", "rich.console", "subprocess"),
    *("apiha.install", "apiha.manifests.render", "apiha.status", "apiha.updater", "apiha.userdata.pieces"),
)


@pytest.mark.parametrize("launcher", ["-m apiha", "-c import apiha.start; apiha.start.main()"])
def test_a_pin_loads_nothing_that_it_does_not_need(
    launcher: str, start_plane: StartPlane, write_config: WriteConfig
) -> None:
    """Nothing that async libraries or the command line of httpx bring along, nor what other commands of apiha need."""
    plane = start_plane()
    config = write_config(f"{plane.address}:{plane.port}", port=plane.port)
    hosts = config.with_name("hosts")
    hosts.write_text("127.0.0.1 localhost\n")
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *launcher.split(" ", 1),
         "--config", config, "--hosts-file", hosts, "--state-dir", config.with_name("state"), "pin-host"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "import time:" in line}
    assert {"httpx", "apiha.node.pin"} <= loaded
    assert loaded & set(NEEDLESS) == set()
    assert plane.address in hosts.read_text()


def test_a_control_c_while_it_starts_is_one_line() -> None:
    """Half a second on a busy machine, in which many a ^C falls."""
    program = """
import sys

class Interrupts:
    def find_spec(self, name, *_):
        if name == "click":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupts())
import apiha.start
apiha.start.main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "apiha: error: interrupted\n")
