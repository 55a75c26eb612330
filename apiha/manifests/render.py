"""Fills the templates of this folder: values in, YAML texts out. Pure, but for `write_base`."""

from __future__ import annotations

import ipaddress
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template

from apiha import __version__
from apiha.endpoint import parse_ip
from apiha.errors import ConfigError
from apiha.names import SERVICE, SERVICE_LABEL, lease_name, slice_name, slice_names
from apiha.settings import LABEL
from apiha.slices import Family

DEFAULT_NAMESPACE = "kube-system"

_NAMESPACE_FILE = "namespace.yaml"  # comes first, and only with --create-namespace
# Every cluster has these, and nobody deletes them.
ALWAYS_THERE = frozenset({"default", "kube-system", "kube-public", "kube-node-lease"})
SLICES = "endpointslices.yaml"  # holds one family, and is filled for each
# In the order in which they are applied and deleted. The rights come before what they guard: once they are gone
# the updater can no longer create again what is deleted after them.
TEMPLATES = (
    "serviceaccount.yaml",
    "updater-rbac.yaml",
    "updater-policy.yaml",
    "nodes-rbac.yaml",
    "lease.yaml",
    "service.yaml",
    SLICES,
    "poddisruptionbudget.yaml",
    "deployment.yaml",
)
# Only when asked for: the option of `Values`, and its file.
EXTRAS = {
    "pod_monitor": "podmonitor.yaml",
    "network_policy": "networkpolicy.yaml",
    "dashboard": "dashboard.yaml",
}
DASHBOARD = "apiha.json"  # of deploy/grafana; inside the wheel it is in apiha/grafana
KUBERNETES_PORT = 443  # of the Service `kubernetes` (kube-apiserver always gives it this one)
KUSTOMIZATION = "kustomization.yaml"
# The first line of kustomization.yaml; `write_base` replaces no folder's contents without it.
HEADER = "# Written by `apiha manifests`: change its flags or an overlay rather than these files.\n"

# github.com/distribution/reference, regexp.go: [HOST[:PORT]/]PATH[:TAG][@DIGEST]
_HOST_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_REGISTRY = rf"(?:{_HOST_LABEL}(?:\.{_HOST_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_PATH_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"(?P<name>(?:{_REGISTRY}/)?{_PATH_PART}(?:/{_PATH_PART})*)"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?"
    r"(?:@[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,})?",
    re.ASCII,
)
_LONGEST_IMAGE_NAME = 255  # bytes, without tag and digest (distribution/reference, NameTotalLengthMax)


@dataclass(frozen=True)
class Values:
    """What the templates are filled with, checked by `checked_values`.

    `vips` are one address, or one of each family, the Service's primary family first; `host` and `port` are what
    kubeconfigs name. `create_namespace` adds the Namespace, unless every cluster has it; `pod_monitor`,
    `network_policy` and `dashboard` add what they are called.
    """

    image: str
    vips: tuple[str, ...]
    namespace: str = DEFAULT_NAMESPACE
    host: str = "apiserver.cluster.local"
    port: int = 6443
    create_namespace: bool = False
    pod_monitor: bool = False
    network_policy: bool = False
    dashboard: bool = False

    @property
    def families(self) -> tuple[Family, ...]:
        """The families of the VIPs, as Kubernetes writes them."""
        return tuple(family_of(vip) for vip in self.vips)


def family_of(address: str) -> Family:
    """`IPv4` or `IPv6`."""
    return "IPv6" if ":" in address else "IPv4"


def checked_values(
    image: str,
    vips: Iterable[str],
    namespace: str,
    host: str,
    port: int,
    *,
    create_namespace: bool = False,
    vip_needed: bool = True,
) -> Values:
    """The values, addresses in canonical form; raises ConfigError for what no cluster accepts.

    `host` and `port` have been checked by `apiha.config`. No VIP is an error if `vip_needed`.
    """
    texts = [text.strip() for item in vips for text in item.split(",")]
    addresses = tuple(_vip(text) for text in texts if text)
    if not addresses and vip_needed:
        raise ConfigError("--vip: not set; expected a free address of the Service CIDR, such as 10.96.0.100")
    if len({family_of(address) for address in addresses}) != len(addresses):
        raise ConfigError(
            f"--vip: {', '.join(addresses)}: a Service has one address of each family; expected one IPv4 "
            "address, one IPv6 address, or one of each"
        )
    if not LABEL.fullmatch(namespace):
        raise ConfigError(
            f"--namespace: {namespace!r} is not a valid namespace name; expected an RFC 1123 label "
            "(a-z, 0-9 and '-', at most 63 characters)"
        )
    matched = _IMAGE.fullmatch(image)
    if matched is None or len(matched["name"]) > _LONGEST_IMAGE_NAME:
        raise ConfigError(
            f"--image: {image[:300]!r} is not an image reference; expected [REGISTRY[:PORT]/]NAME[:TAG][@DIGEST], such "
            f"as registry.example.com/apiha:{__version__}"
        )
    return Values(
        image=image,
        vips=addresses,
        namespace=namespace,
        host=host,
        port=port,
        create_namespace=create_namespace and namespace not in ALWAYS_THERE,
    )


def _vip(text: str) -> str:
    try:
        canonical = parse_ip(text)
    except ValueError as error:
        raise ConfigError(f"--vip: {error}") from None
    address = ipaddress.ip_address(canonical)
    if address.is_loopback or address.is_link_local:
        raise ConfigError(
            f"--vip: {canonical} is a loopback or link-local address, which means another machine on every node; "
            "expected an address of the Service CIDR"
        )
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        raise ConfigError(f"--vip: {text!r} is an IPv4-mapped IPv6 address; expected {address.ipv4_mapped}")
    return canonical


def updater_arguments(values: Values) -> list[str]:
    """The flags of `apiha updater` in the Pod."""
    return [
        f"--namespace={values.namespace}",
        f"--service={SERVICE}",
        *(f"--vip={vip}" for vip in values.vips),
        f"--host={values.host}",
    ]


def render(values: Values) -> dict[str, str]:
    """The manifests, file name to YAML text, in the order of application; the same for the same values."""
    quoted = as_yaml(
        {
            "namespace": values.namespace,
            # In `default`, where the installations of all namespaces meet; 253 characters at most.
            "source_role": f"apiserver-updater-source-{values.namespace}",
            "nodes_role": f"apiha-nodes-{values.namespace}",
            "image": values.image,
            "cluster_ip": values.vips[0],
            "cluster_ips": values.vips,
            "ip_families": values.families,
            "ip_family_policy": "RequireDualStack" if len(values.vips) > 1 else "SingleStack",
            "port": values.port,
            "policy": f"apiserver-updater-{values.namespace}",
            # CEL; what a string is in JSON is one in CEL as well.
            "by_updater": "request.userInfo.username == "
            + json.dumps(f"system:serviceaccount:{values.namespace}:apiserver-updater"),
            "args": updater_arguments(values),
            "api_server_ports": [
                {"protocol": "TCP", "port": port} for port in dict.fromkeys((KUBERNETES_PORT, values.port))
            ],
            "dashboard": dashboard() if values.dashboard else "",
            **CONSTANTS,
        }
    )
    names = [_NAMESPACE_FILE] if values.create_namespace else []
    names += TEMPLATES
    names += [name for option, name in EXTRAS.items() if getattr(values, option)]
    return {
        name: one_stream(
            fill(name, {**quoted, **family})
            for family in (
                [as_yaml(of_family(f)) for f in sorted(values.families)] if name == SLICES else [{}]
            )
        )
        for name in names
    }


# What no value changes: the names of the objects follow from the Service's.
CONSTANTS: Mapping[str, object] = {
    "for_our_service": f'object.metadata.?labels[?"{SERVICE_LABEL}"].orValue("{SERVICE}") == "{SERVICE}"',
    "lease": lease_name(SERVICE),
    "slices": list(slice_names(SERVICE)),
}


def of_family(family: Family) -> dict[str, object]:
    """What is different in the slice of each family."""
    return {"slice": slice_name(SERVICE, family), "family": family}


def as_yaml(fields: Mapping[str, object]) -> dict[str, str]:
    """Each value as JSON, so that a namespace called `y` or `1e3` is a text to every reader of YAML."""
    return {key: json.dumps(value) for key, value in fields.items()}


def fill(name: str, quoted: Mapping[str, str]) -> str:
    """The template of this name with its values."""
    text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    return Template(text).substitute(quoted)


def dashboard() -> str:
    """The text of Grafana's dashboard: inside the wheel or apiha.pyz, or in `deploy/grafana` of a source tree."""
    inside = resources.files("apiha") / "grafana"
    folder = inside if inside.is_dir() else Path(__file__).resolve().parents[2] / "deploy/grafana"
    return folder.joinpath(DASHBOARD).read_text(encoding="utf-8")


def one_stream(texts: Iterable[str]) -> str:
    """All texts as one YAML stream, for `kubectl apply -f -`."""
    return "---\n".join(texts)


def kustomization(files: Iterable[str]) -> str:
    """The kustomization.yaml of a base with these files."""
    resources_list = "".join(f"  - {name}\n" for name in files)
    return (
        f"{HEADER}# No `namespace:` in an overlay: the objects are in two. `apiha manifests --namespace` sets it.\n"
        f"apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n{resources_list}"
    )


def write_base(directory: Path, files: Mapping[str, str]) -> list[Path]:
    """Write the files and a kustomization.yaml into a folder, made if need be; returns their paths.

    Raises ConfigError if the folder holds files of somebody else under these names, or cannot be written.
    """
    # The kustomization.yaml first: what is written half is still known as ours.
    contents = {KUSTOMIZATION: kustomization(files), **files}
    index = directory / KUSTOMIZATION
    try:
        ours = index.exists() and index.read_bytes().startswith(HEADER.encode())
        there = [directory / name for name in contents if os.path.lexists(directory / name)]
        if there and not ours:
            raise ConfigError(
                f"--output-dir: {there[0]} was not written by apiha; expected a new folder, or one that "
                "`apiha manifests` wrote"
            )
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in contents.items():
            (directory / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--output-dir: cannot write {directory}: {error.strerror}") from None
    return [directory / name for name in contents]
