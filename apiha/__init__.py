"""apiha: a Kubernetes node keeps its API server, without a load balancer."""

from __future__ import annotations

__version__ = "0.1.0"
