#!/usr/bin/python3
"""A stand-in for kubelet that does one thing as the real one does: it renews its node's Lease, by kubelet.conf.

Copied into machines as /usr/bin/kubelet; the standard library is all it needs. It connects to the server that
/etc/kubernetes/kubelet.conf names when it starts, by the machine's own hosts file, verifies it with the CA of
/etc/kubernetes/pki/ca.crt, and shows the certificate in /var/lib/kubelet/pki. While the file /etc/no-name exists, it
does not get along with servers that are named by a name.

    kubelet NODE
"""

from __future__ import annotations

import datetime
import http.client
import json
import os
import re
import ssl
import sys
import time
from typing import Any
from urllib.parse import urlsplit

CONFIG = "/etc/kubernetes/kubelet.conf"
CERTIFICATE = "/var/lib/kubelet/pki/kubelet-client-current.pem"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
INTERVAL = 2.0  # seconds between two renewals; the real one takes 10


def request(server: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """One request on a connection of its own."""
    url = urlsplit(server)
    context = ssl.create_default_context(cafile="/etc/kubernetes/pki/ca.crt")
    context.load_cert_chain(CERTIFICATE)
    connection = http.client.HTTPSConnection(url.hostname or "", url.port, timeout=5.0, context=context)
    try:
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def renew(server: str, node: str) -> None:
    """Renew the Lease, or make it."""
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    spec = {"holderIdentity": node, "leaseDurationSeconds": 40, "renewTime": now}
    status, lease = request(server, "GET", f"{LEASES}/{node}")
    if status == 404:
        status, lease = request(server, "POST", LEASES, {"metadata": {"name": node}, "spec": spec})
    else:
        lease["spec"] = spec
        status, lease = request(server, "PUT", f"{LEASES}/{node}", lease)
    if status not in (200, 201):
        raise OSError(f"HTTP {status}: {lease}")


def main() -> None:
    """Run until killed."""
    node = sys.argv[1]
    with open(CONFIG) as file:
        found = re.search(r"^\s*server: (\S+)", file.read(), re.MULTILINE)
    server = found[1] if found else sys.exit(f"{CONFIG} names no server")
    print(f"started with {server}", flush=True)
    while True:
        try:
            if os.path.exists("/etc/no-name") and not re.match(r"https://[\d.]+:", server):
                raise OSError("does not get along with names")
            renew(server, node)
            print(f"renewed the Lease at {server}", flush=True)
        except (OSError, ValueError, http.client.HTTPException) as error:
            print(f"cannot renew the Lease at {server}: {error}", flush=True)
        time.sleep(INTERVAL)


if __name__ == "__main__":
    main()
