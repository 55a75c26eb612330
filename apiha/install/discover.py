"""Asks the cluster, with kubelet's own certificate, for a node's settings. What counts is in `found`."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from apiha.endpoint import Endpoint, parse_ip
from apiha.errors import ApihaError, ConfigError, NoControlPlane, NotPermitted
from apiha.install.found import ADVICE, Found, settings_found, vip_of
from apiha.names import SERVICE
from apiha.node.learned import NotLearned, ask, fetch_control_planes
from apiha.paths import KUBELET_KUBECONFIG
from apiha.probe import Prober
from apiha.trust import Kubeconfig, common_name, make_ssl_context, pem_file, read_kubeconfig

TIMEOUT = 5.0  # seconds for one request: a person waits, and a slow API server is better than none
# Every kubelet may list Services, in all namespaces: rule `services` of NodeRules, plugin/pkg/auth/authorizer/rbac.
SERVICES_PATH = f"/api/v1/services?fieldSelector=metadata.name%3D{SERVICE}"


@dataclass(frozen=True)
class Discovery:
    """What was found, and for each of the keys `control_plane` and `vip` that was not found, why."""

    found: tuple[Found, ...] = ()
    problems: dict[str, ApihaError] = field(default_factory=dict)


@dataclass(frozen=True)
class Kubelet:
    """A way to ask an API server as kubelet does: where kubelet.conf says, with the certificate and CA from there.

    `user` is the certificate's, `system:node:NAME`, or None if it cannot be told.
    """

    prober: Prober
    endpoints: tuple[Endpoint, ...]
    user: str | None


def discover(
    given: Collection[str], given_port: int | None = None, *, kubelet: Path = KUBELET_KUBECONFIG
) -> Discovery:
    """What the cluster says about the settings that were not `given` (their keys). Never raises an ApihaError."""
    sought = [key for key in ("control_plane", "vip") if key not in given]
    try:
        with as_kubelet(kubelet) as identity:
            asked, planes, services = _ask(identity)
    except ApihaError as error:
        advice = " and ".join(ADVICE[key] for key in sought)
        problem = type(error)(f"{' and '.join(sought)}: not given, and not found: {error}; give {advice}")
        return Discovery(problems=dict.fromkeys(sought, problem))
    vip, problems = None, {}
    if "vip" not in given:
        try:
            vip = vip_of(services)
        except ApihaError as error:
            problems["vip"] = error
    words = f"{asked} says so to {identity.user or 'kubelet'}"
    return Discovery(settings_found(planes, vip, given, asked=words, given_port=given_port), problems)


@contextlib.contextmanager
def as_kubelet(path: Path = KUBELET_KUBECONFIG, *, host: str | None = None) -> Iterator[Kubelet]:
    """Ask as the kubelet of this node, verified with its CA for `host` (default: what kubelet verifies).

    Raises ConfigError where kubelet.conf cannot serve, NotPermitted where it cannot be read, NoControlPlane where the
    name in it does not resolve.
    """
    if os.path.exists(path) and not os.access(path, os.R_OK):
        raise NotPermitted(f"{path}: only root can read it; run it as root")
    identity = read_kubeconfig(path)
    name, port = _server(path, identity)
    certificate = _require(path, identity.client_cert, "client certificate")
    with pem_file(certificate, identity.client_key) as pem:
        try:
            context = make_ssl_context(_require(path, identity.ca, "CA"), client_cert=pem)
        except ValueError as error:
            raise ConfigError(f"{path}: {str(error).replace(str(pem), '').replace('  ', ' ')}") from None
        prober = Prober(identity.server_name or host or name, context, TIMEOUT)
        yield Kubelet(prober, () if host else _addresses(name, port), common_name(certificate))


def _ask(identity: Kubelet) -> tuple[Endpoint, Sequence[Endpoint], Any]:
    """Who answered, the control planes and the Services; raises NoControlPlane."""
    failures = []
    for endpoint in identity.endpoints:
        try:
            planes = fetch_control_planes(identity.prober, endpoint)
            status, services = ask(identity.prober, endpoint, SERVICES_PATH)
        except NotLearned as error:
            failures.append(str(error))
            continue
        if status != 200:
            who = identity.user or "kubelet"
            raise ConfigError(f"{endpoint} answered HTTP {status} to {who} for the list of Services")
        return endpoint, planes, services
    raise NoControlPlane("; ".join(failures))


def _server(path: Path, identity: Kubeconfig) -> tuple[str, int]:
    """The name or address, and the port, of `server:`; raises ConfigError for what apiha cannot follow."""
    if identity.proxy is not None:
        raise ConfigError(
            f"{path}: kubelet reaches its API server through {identity.proxy}, and apiha does not"
        )
    try:
        parts = urlsplit(_require(path, identity.server, "server"))
        if parts.scheme != "https" or not parts.hostname:
            raise ValueError
        return parts.hostname, parts.port or 443
    except ValueError:
        raise ConfigError(f"{path}: server: {identity.server}: expected https://HOST:PORT") from None


def _require(path: Path, value: str | None, what: str) -> str:
    if value is None:
        raise ConfigError(f"{path} has no {what}")
    return value


def _addresses(name: str, port: int) -> tuple[Endpoint, ...]:
    try:
        return (Endpoint(parse_ip(name), port),)
    except ValueError:
        pass
    try:
        answers = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise NoControlPlane(
            f"{name}, which kubelet.conf names, does not resolve ({error.strerror})"
        ) from None
    return tuple(dict.fromkeys(Endpoint(str(answer[4][0]), port) for answer in answers))
