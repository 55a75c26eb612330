"""apiha: a Kubernetes node keeps its API server, without a load balancer."""

from __future__ import annotations

__version__ = "0.1.0"
HOMEPAGE = "https://github.com/apiha/apiha"  # the same as in pyproject.toml, which a test holds
