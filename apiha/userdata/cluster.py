"""What a node to come has to know of the cluster, asked through kubectl with an administrator's kubeconfig."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from apiha.config import OTHER_YAML_ERRORS, Config
from apiha.endpoint import Endpoint
from apiha.errors import ConfigError, NotPermitted
from apiha.findings import Severity, docs_link
from apiha.install.found import ADVICE, Found, settings_found, vip_of
from apiha.kubectl import Kubectl, KubectlError
from apiha.manifests.judge import judge_certificate
from apiha.names import SERVICE
from apiha.probe import Prober, probe_all
from apiha.slices import ready_endpoints, slices_of_list
from apiha.trust import make_ssl_context
from apiha.userdata.token import NAMESPACE, Token, secret_of

_PROBE_TIMEOUT = 3.0  # seconds
_SERVICES = f"/api/v1/services?fieldSelector=metadata.name%3D{SERVICE}"
_SLICES = (
    "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
    "?labelSelector=kubernetes.io%2Fservice-name%3Dkubernetes"
)
_CLUSTER_INFO = "/api/v1/namespaces/kube-public/configmaps/cluster-info"


def look(kubectl: Kubectl, given: Mapping[str, str], given_port: int | None) -> tuple[str, tuple[Found, ...]]:
    """The CA (PEM), and the settings that were not `given` (key to text), as `apiha install` finds them on a node.

    The first of them is `ca`, for the words on where it is from. Raises ConfigError where the cluster lacks one of
    them, NotPermitted, NoControlPlane.
    """
    pem, source = _ca(kubectl)
    planes: Sequence[Endpoint] = ()
    if "control_plane" not in given:
        what = "the EndpointSlices of default/kubernetes"
        planes = ready_endpoints(slices_of_list(_get(kubectl, _SLICES, what)))
        if not planes:
            raise ConfigError(f"{what} have no ready control plane; give {ADVICE['control_plane']}")
    vip = None
    if "vip" not in given:
        vip = vip_of(_get(kubectl, _SERVICES, f"the Services `{SERVICE}`"))
    found = settings_found(planes, vip, given, asked="kubectl says so", given_port=given_port)
    return pem, (Found("ca", "its certificate", source), *found)


def _get(kubectl: Kubectl, path: str, what: str) -> Any:
    """The object, None where there is none; raises NotPermitted, ConfigError, NoControlPlane."""
    try:
        return kubectl.get(path)
    except KubectlError as error:
        if error.reason == "NotFound":
            return None
        if error.reason in ("Forbidden", "Unauthorized"):
            raise NotPermitted(f"{what} cannot be read: {error}") from None
        raise ConfigError(f"{what} cannot be read: {error}") from None


def _ca(kubectl: Kubectl) -> tuple[str, str]:
    """What the API servers prove themselves with, and where it was found.

    The ConfigMap first: an administrator may come by a load balancer that has a certificate of another CA.
    """
    name = "ConfigMap default/kube-root-ca.crt"
    published = _get(kubectl, "/api/v1/namespaces/default/configmaps/kube-root-ca.crt", f"the {name}")
    if text := (published or {}).get("data", {}).get("ca.crt"):
        return text, f"the {name}"
    if text := kubectl.ca_of_kubeconfig():
        return text, "your kubeconfig"
    raise ConfigError(
        f"the cluster's CA: neither the {name} nor your kubeconfig has it; expected it in one of them"
    )


def doubts(ca: str, config: Config) -> list[str]:
    """What would keep a node from using these control planes, as far as their certificates tell from here."""
    try:
        prober = Prober(config.host, make_ssl_context(ca), _PROBE_TIMEOUT)
    except ValueError as error:
        raise ConfigError(f"the cluster's CA {error}") from None
    findings = [
        judge_certificate(result, config.host) for result in probe_all(prober.probe, config.control_plane)
    ]
    return [f"{bad.message}; {bad.advice}" for bad in findings if bad.severity is Severity.ERROR]


def check_join(kubectl: Kubectl, config: Config) -> list[str]:
    """Whether `kubeadm join` by the name will lead to a kubelet that uses the name: warnings.

    Raises ConfigError if the cluster was not made by kubeadm, NotPermitted, NoControlPlane.
    """
    what = "ConfigMap kube-public/cluster-info"
    info = _get(kubectl, _CLUSTER_INFO, f"--join: the {what}")
    if info is None:
        raise ConfigError(
            f"--join: the {what} does not exist, so `kubeadm join` would not work; leave --join out for a cluster "
            "that kubeadm did not make"
        )
    server = _server(str((info.get("data") or {}).get("kubeconfig", "")))
    wanted = f"https://{config.host}:{config.port}"
    if server == wanted:
        return []
    return [
        f"the {what} names {server or 'no server'}, and kubelet on a node that joins will use that; expected {wanted}: "
        f"{docs_link('cluster.md#5-clients-use-the-name')}"
    ]


def _server(kubeconfig: str) -> str | None:
    """The API server's address in the kubeconfig that `cluster-info` holds; None if there is none."""
    import yaml

    try:
        found = yaml.safe_load(kubeconfig)["clusters"][0]["cluster"]["server"]
    except (yaml.YAMLError, *OTHER_YAML_ERRORS):
        return None
    return found.rstrip("/") if isinstance(found, str) else None


def create_token(kubectl: Kubectl, token: Token) -> None:
    """Make the token valid; raises NotPermitted, ConfigError, NoControlPlane."""
    try:
        kubectl.create([secret_of(token, "made by `apiha user-data --join`")])
    except KubectlError as error:
        name = f"Secret {NAMESPACE}/{token.secret_name}"
        if error.reason in ("Forbidden", "Unauthorized"):
            raise NotPermitted(f"--join: the {name} cannot be created: {error}") from None
        raise ConfigError(f"--join: the {name} cannot be created: {error}") from None
