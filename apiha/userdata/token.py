"""A token to join the cluster with, as `kubeadm token create` makes it. Pure: clock and dice are passed in.

https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/
"""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

NAMESPACE = "kube-system"
_ALPHABET = string.ascii_lowercase + string.digits
_ID_LENGTH, _SECRET_LENGTH = 6, 16  # [a-z0-9]{6}.[a-z0-9]{16}
# The group that kubeadm gives the right to post a certificate request for a node, and to have it approved.
_GROUP = "system:bootstrappers:kubeadm:default-node-token"


@dataclass(frozen=True)
class Token:
    """A bootstrap token; `secret` stays out of every message, and out of the repr."""

    id: str
    secret: str = field(repr=False)
    expires: datetime  # with a time zone

    @property
    def text(self) -> str:
        """What `kubeadm join --token` takes."""
        return f"{self.id}.{self.secret}"

    @property
    def secret_name(self) -> str:
        """The name of the Secret that makes it valid."""
        return f"bootstrap-token-{self.id}"


def new_token(choose: Callable[[str], str], now: datetime, ttl: float) -> Token:
    """A fresh token that expires `ttl` seconds after `now`; `choose` picks one character, unpredictably."""
    characters = [choose(_ALPHABET) for _ in range(_ID_LENGTH + _SECRET_LENGTH)]
    expires = (now + timedelta(seconds=ttl)).astimezone(timezone.utc).replace(microsecond=0)
    return Token("".join(characters[:_ID_LENGTH]), "".join(characters[_ID_LENGTH:]), expires)


def secret_of(token: Token, description: str) -> dict[str, Any]:
    """The Secret by which the API server knows the token."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": token.secret_name, "namespace": NAMESPACE},
        "type": "bootstrap.kubernetes.io/token",
        "stringData": {
            "auth-extra-groups": _GROUP,
            "description": description,
            "expiration": token.expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "token-id": token.id,
            "token-secret": token.secret,
            "usage-bootstrap-authentication": "true",
            "usage-bootstrap-signing": "true",
        },
    }
