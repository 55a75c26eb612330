"""`make demo`: three control planes and a late VIP on loopback, and the real `apiha bootstrap` against them.

No root: the control planes are real HTTPS servers on 127.0.0.x, with a CA made on the spot, and the hosts file is a
scratch copy. One control plane is dead from the start, the pinned one dies during the wait, and the VIP starts to
answer only after that, as on a node where kubelet has yet to start kube-proxy.
"""

from __future__ import annotations

import queue
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, NoReturn

from tests.support.control_plane import Authority, ControlPlane, TcpForwarder, control_planes, free_port

ADDRESSES = ("127.0.0.11", "127.0.0.12", "127.0.0.13")
VIP = "127.0.0.100"
HOST = "apiserver.cluster.local"
STEP_LIMIT = 60.0  # seconds; each step takes a few, on a busy machine more
BEFORE = "127.0.0.1\tlocalhost\n192.168.1.20\tnas.example   # a line of your own, which nobody touches\n"
BOLD, DIM, RESET = ("\x1b[1m", "\x1b[2m", "\x1b[0m") if sys.stdout.isatty() else ("", "", "")
START = time.monotonic()


def say(text: str) -> None:
    """One line of narration, with the seconds since the start."""
    print(f"{BOLD}[{time.monotonic() - START:4.1f}s] {text}{RESET}", flush=True)


def show(hosts: Path) -> None:
    """The hosts file, indented."""
    print("\n".join(f"          | {line}" for line in hosts.read_text().splitlines()), flush=True)


def fail(text: str) -> NoReturn:
    """The demo did not show what it is there to show."""
    print(f"demo: failed: {text}", file=sys.stderr)
    sys.exit(1)


class Events:
    """What apiha says on stderr: echoed as it comes, and kept to wait for."""

    def __init__(self, stream: IO[str]) -> None:
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            print(f"          {DIM}{line.rstrip()}{RESET}", flush=True)
            self._lines.put(line)
        self._lines.put(None)

    def wait_for(self, words: str) -> None:
        """Return once a line holds these words; fail if none does in time."""
        deadline = time.monotonic() + STEP_LIMIT
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                fail(f"apiha did not say {words!r} within {STEP_LIMIT:g} s")
            if line is None:
                fail(f"apiha ended without saying {words!r}")
            if words in line:
                return


def first_address(hosts: Path) -> str:
    """The address that comes first in the block."""
    lines = [line.split() for line in hosts.read_text().splitlines() if not line.startswith("#")]
    return next((fields[0] for fields in lines if HOST in fields[1:]), "none")


def main() -> None:
    """Run the demo; exits non-zero if anything did not happen as told."""
    with tempfile.TemporaryDirectory(prefix="apiha-demo-") as folder:
        authority = Authority(Path(folder))
        (Path(folder) / "ca.crt").write_text(authority.ca_pem)
        hosts = Path(folder) / "hosts"
        hosts.write_text(BEFORE)
        port = free_port([*ADDRESSES, VIP])
        with control_planes(authority, ADDRESSES, port=port) as planes, TcpForwarder(VIP, port) as vip:
            vip.stop()
            run(Path(folder), hosts, planes, vip)


def run(folder: Path, hosts: Path, planes: list[ControlPlane], vip: TcpForwarder) -> None:
    """The story, step by step."""
    settings = [
        *("--host", HOST, "--port", str(vip.port), "--control-plane", ",".join(ADDRESSES), "--vip", VIP),
        *(
            "--ca-file",
            str(folder / "ca.crt"),
            "--hosts-file",
            str(hosts),
            "--state-dir",
            str(folder / "state"),
        ),
        *("--config", str(folder / "config.yaml")),
    ]
    (folder / "config.yaml").write_text("")
    apiha = [sys.executable, "-m", "apiha", *settings]

    say(
        f"Three control planes: {', '.join(ADDRESSES)}, port {vip.port}. The VIP {VIP} is silent. The hosts file:"
    )
    show(hosts)
    planes[0].stop()
    say(f"{ADDRESSES[0]} is dead from the start. What the node sees (`apiha probe`):")
    probe = subprocess.run([*apiha, "probe"], capture_output=True, text=True, timeout=STEP_LIMIT, check=False)
    print("".join(f"          | {line}\n" for line in probe.stdout.splitlines()), end="", flush=True)
    if probe.returncode != 0:
        fail(f"`apiha probe` exited with {probe.returncode}: {probe.stderr}")

    say("`apiha bootstrap` starts, as it would on a worker:")
    process = subprocess.Popen([*apiha, "bootstrap", "--timeout", "5m"], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        events = Events(process.stderr)
        events.wait_for("pinned")
        pinned = first_address(hosts)
        if pinned not in ADDRESSES[1:]:
            fail(f"expected a live control plane first in the block, found {pinned}")
        say(f"The name points at {pinned}; kubelet can start now. The hosts file:")
        show(hosts)

        events.wait_for("does not answer yet")
        say(f"Now {pinned}, the pinned control plane, dies, before the VIP is there:")
        next(plane for plane in planes if plane.address == pinned).stop()
        events.wait_for("pinned control plane")
        events.wait_for("pinned apiserver")
        survivor = first_address(hosts)
        if survivor in (pinned, ADDRESSES[0], "none"):
            fail(f"expected the last live control plane first in the block, found {survivor}")
        say(f"The name points at {survivor}, the last one alive. The hosts file:")
        show(hosts)

        say("kube-proxy has written its rules by now: the VIP starts to answer.")
        vip.targets = [(plane.address, plane.port) for plane in planes if plane.running]
        vip.start()
        events.wait_for("swapped")
        if process.wait(STEP_LIMIT) != 0:
            fail(f"`apiha bootstrap` exited with {process.returncode}")
    finally:
        process.kill()
        process.wait()
    if first_address(hosts) != VIP:
        fail(f"expected the VIP first in the block, found {first_address(hosts)}")
    say(
        "Three answers in a row: the name points at the VIP, the control planes stay as fallbacks. The hosts file:"
    )
    show(hosts)

    subprocess.run([*apiha, "unpin"], capture_output=True, timeout=STEP_LIMIT, check=True)
    if hosts.read_text() != BEFORE:
        fail("`apiha unpin` did not give back the first bytes")
    say("`apiha unpin` gave back the very first bytes. That was all: no process of apiha is left.")


if __name__ == "__main__":
    main()
