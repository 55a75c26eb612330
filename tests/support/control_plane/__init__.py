"""Control planes to test against: real TLS servers that answer `/readyz` as a kube-apiserver does, or not.

In one process, on loopback, without root (for the demo and most tests)::

    authority = Authority(tmp_path)
    with control_planes(authority, ["127.0.0.11", "127.0.0.12", "127.0.0.13"]) as planes:
        planes[0].behaviour = "blackholed"
        planes[1].stop()          # killed: nothing listens, every open connection is cut

In a network namespace, either from the same process (`ControlPlane(..., netns="cp1")`, which needs root), or
as a process of its own, which needs nothing but the standard library::

    ip netns exec cp1 python -m tests.support.control_plane --listen 10.0.0.11:6443 --cert cp.crt --key cp.key

`TcpForwarder` stands in for the VIP: it balances over the control planes as a Service proxy does.
"""

from __future__ import annotations

from tests.support.control_plane.authority import DEFAULT_HOST, Authority, Certificate
from tests.support.control_plane.behaviours import BEHAVIOURS, IMPOSTORS
from tests.support.control_plane.forwarder import TcpForwarder
from tests.support.control_plane.server import ControlPlane, control_planes
from tests.support.control_plane.tcp import free_port

__all__ = [
    "BEHAVIOURS",
    "DEFAULT_HOST",
    "IMPOSTORS",
    "Authority",
    "Certificate",
    "ControlPlane",
    "TcpForwarder",
    "control_planes",
    "free_port",
]
