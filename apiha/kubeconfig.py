"""What a kubeconfig on this node says about the API server, the cluster's CA and the kubelet's own credentials."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apiha.config import Config, read_text
from apiha.errors import ConfigError

KUBELET_KUBECONFIG = Path("/etc/kubernetes/kubelet.conf")  # where kubeadm writes it
KUBEADM_CA = Path("/etc/kubernetes/pki/ca.crt")


@dataclass(frozen=True)
class Kubeconfig:
    """The parts of a kubeconfig's current context that apiha uses; None where absent.

    `server` is the URL of the API server, the others are PEM texts.
    """

    server: str | None
    ca: str | None
    client_cert: str | None
    client_key: str | None


@dataclass(frozen=True)
class CertificateAuthority:
    """The cluster's CA bundle (PEM) and where it was read."""

    pem: str
    source: str


def read_kubeconfig(path: Path) -> Kubeconfig:
    """The CA and the client credentials of the current context; raises ConfigError for what cannot be read.

    Files named inside are relative to the kubeconfig's own folder, as client-go reads them.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    text = read_text(path, "a kubeconfig")
    try:
        document = yaml.load(text, Loader=loader)  # noqa: S506 (both loaders are the safe ones)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{path}: not a kubeconfig: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: not a kubeconfig: expected a mapping")
    context = _named(document, "contexts", document.get("current-context"), "context")
    cluster = _named(document, "clusters", context.get("cluster"), "cluster")
    user = _named(document, "users", context.get("user"), "user")
    server = cluster.get("server")
    return Kubeconfig(
        server=None if server is None else " ".join(str(server).split()),
        ca=_inline_or_file(path, cluster, "certificate-authority"),
        client_cert=_inline_or_file(path, user, "client-certificate"),
        client_key=_inline_or_file(path, user, "client-key"),
    )


def _named(document: dict[str, Any], section: str, name: object, field: str) -> dict[str, Any]:
    """The entry called `name` of a section; the only one where no name is given; {} if there is none."""
    entries = [
        e for e in document.get(section) or [] if isinstance(e, dict) and isinstance(e.get(field), dict)
    ]
    for entry in entries:
        if entry.get("name") == name or (name in (None, "") and len(entries) == 1):
            found: dict[str, Any] = entry[field]
            return found
    return {}


def _inline_or_file(path: Path, entry: dict[str, Any], key: str) -> str | None:
    data = entry.get(f"{key}-data")
    if data:
        try:
            return base64.b64decode(str(data), validate=True).decode("ascii")
        except (binascii.Error, ValueError):
            raise ConfigError(f"{path}: {key}-data: not base64 of a PEM text") from None
    name = entry.get(key)
    return read_text(path.parent / str(name), key) if name else None


def load_ca(
    config: Config, *, kubelet: Path = KUBELET_KUBECONFIG, kubeadm: Path = KUBEADM_CA
) -> CertificateAuthority:
    """The CA that a control plane must prove itself with: `ca_file`, else the kubelet's, else kubeadm's.

    A kubelet.conf that is there but unusable does not keep the node from booting if kubeadm's file can serve.
    Raises ConfigError naming all places that were tried.
    """
    if config.ca_file is not None:
        return CertificateAuthority(
            read_text(config.ca_file, "the CA certificate (ca_file)"), str(config.ca_file)
        )
    tried: list[str] = []
    try:
        if ca := read_kubeconfig(kubelet).ca:
            return CertificateAuthority(ca, str(kubelet))
        tried.append(f"{kubelet} holds no CA")
    except ConfigError as error:
        tried.append(str(error))
    try:
        return CertificateAuthority(read_text(kubeadm, "the CA certificate"), str(kubeadm))
    except ConfigError as error:
        tried.append(str(error))
    raise ConfigError(
        f"ca_file: not set, and no CA found ({'; '.join(tried)}); expected ca_file: /path/to/ca.crt"
    )
