#!/usr/bin/python3
"""A stand-in for kubelet, and for the kube-proxy that a real one starts: copied into machines as /usr/bin/kubelet.

As on a real worker the VIP comes up only because this runs, and only once the API server has been reached through
its name: resolve, connect, then give the VIP to `lo` and balance its connections over the control planes. What
happens is printed, for the journal. The standard library is all it needs.

    kubelet --name apiserver.cluster.local --vip 10.96.0.100 --port 6443 CONTROL-PLANE...

While the file /etc/hold-vip exists, the VIP does not come up: a kube-proxy whose image is still being pulled. As a
real kubelet that has not joined a cluster yet, it exits while there is no /etc/kubernetes/kubelet.conf.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path


def say(text: str) -> None:
    """One line for the journal."""
    print(text, flush=True)


def reach_api_server(name: str, port: int) -> str:
    """Connect to the API server by its name, as client-go would; returns the address that answered.

    The addresses of the name are tried in turn. Tries for ever, reading the hosts file anew each time.
    """
    while True:
        try:
            with socket.create_connection((name, port), timeout=1.0) as connection:
                return str(connection.getpeername()[0])
        except OSError as error:
            say(f"cannot reach {name}: {error}")
            time.sleep(0.5)


def copy(source: socket.socket, sink: socket.socket) -> None:
    """Pass bytes on until the source ends."""
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        # Not close: the other direction's thread still uses both, and their numbers must not be given away.
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def forward(client: socket.socket, targets: list[str], port: int) -> None:
    """Hand a connection to the first of the targets that takes it, as a Service does whose dead ones are removed."""
    for target in targets:
        try:
            server = socket.create_connection((target, port), timeout=0.3)
        except OSError:
            continue
        server.settimeout(None)
        threading.Thread(target=copy, args=(server, client), daemon=True).start()
        copy(client, server)
        return
    client.close()


def main() -> None:
    """Run until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--vip", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("control_plane", nargs="+")
    options = parser.parse_args()
    lines = Path("/etc/hosts").read_text().splitlines()
    addresses = [line.split()[0] for line in lines if options.name in line.split()]
    say(f"started; {options.name} is {' '.join(addresses) or 'unknown'}")
    if not os.path.exists("/etc/kubernetes/kubelet.conf"):
        sys.exit("no /etc/kubernetes/kubelet.conf: not joined yet")
    say(f"reached the API server at {reach_api_server(options.name, options.port)}")
    time.sleep(0.5)  # the image of kube-proxy
    while os.path.exists("/etc/hold-vip"):
        time.sleep(0.1)
    subprocess.run(["ip", "address", "replace", f"{options.vip}/32", "dev", "lo"], check=True)
    listener = socket.create_server((options.vip, options.port))
    say(f"the VIP {options.vip} is up")
    for start in itertools.count():
        client, _ = listener.accept()
        turn = start % len(options.control_plane)
        targets = options.control_plane[turn:] + options.control_plane[:turn]
        threading.Thread(target=forward, args=(client, targets, options.port), daemon=True).start()


if __name__ == "__main__":
    main()
