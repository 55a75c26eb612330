"""Fills the templates of this folder: settings in, YAML texts out. Pure, but for `write_base`."""

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

from apiha.endpoint import parse_ip
from apiha.errors import ConfigError

DEFAULT_NAMESPACE = "kube-system"
SERVICE = "apiserver"
# What the updater calls its slices: one holds addresses of one family only.
SLICE_NAMES = {"IPv4": SERVICE, "IPv6": f"{SERVICE}-ipv6"}

_NAMESPACE_FILE = "namespace.yaml"  # comes first, and only with --create-namespace
# Every cluster has these, and nobody deletes them.
ALWAYS_THERE = frozenset({"default", "kube-system", "kube-public", "kube-node-lease"})
_SLICES = "endpointslices.yaml"  # holds one family, and is filled for each
# In the order in which they are applied and deleted. The rights come before what they guard: once they are gone
# the updater can no longer make anew what is deleted after them.
TEMPLATES = (
    "serviceaccount.yaml",
    "updater-rbac.yaml",
    "nodes-rbac.yaml",
    "lease.yaml",
    "service.yaml",
    _SLICES,
    "poddisruptionbudget.yaml",
    "deployment.yaml",
)
KUSTOMIZATION = "kustomization.yaml"
# The first line of kustomization.yaml; `write_base` replaces no folder's contents without it.
HEADER = "# Written by `apiha manifests`: change its flags or an overlay rather than these files.\n"

# RFC 1123 label, as Kubernetes wants it for namespaces.
_NAMESPACE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
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
class Settings:
    """What the templates are filled with, checked by `checked_settings`.

    `vips` are one address, or one of each family, the Service's primary family first; `host` and `port` are what
    kubeconfigs name. `create_namespace` adds the Namespace, unless every cluster has it.
    """

    image: str
    vips: tuple[str, ...]
    namespace: str = DEFAULT_NAMESPACE
    host: str = "apiserver.cluster.local"
    port: int = 6443
    create_namespace: bool = False

    @property
    def families(self) -> tuple[str, ...]:
        """The families of the VIPs, as Kubernetes writes them."""
        return tuple(family_of(vip) for vip in self.vips)


def family_of(address: str) -> str:
    """`IPv4` or `IPv6`."""
    return "IPv6" if ":" in address else "IPv4"


def checked_settings(
    image: str, vips: Iterable[str], namespace: str, host: str, port: int, *, create_namespace: bool = False
) -> Settings:
    """The settings, addresses in canonical form; raises ConfigError for what no cluster can use.

    `host` and `port` have been checked by `apiha.config`.
    """
    texts = [text.strip() for item in vips for text in item.split(",")]
    addresses = tuple(_vip(text) for text in texts if text)
    if not addresses:
        raise ConfigError("--vip: not set; expected a free address of the Service CIDR, such as 10.96.0.100")
    if len({family_of(address) for address in addresses}) != len(addresses):
        raise ConfigError(
            f"--vip: {', '.join(addresses)}: a Service has one address of each family; expected one IPv4 "
            "address, one IPv6 address, or one of each"
        )
    if not _NAMESPACE.fullmatch(namespace):
        raise ConfigError(
            f"--namespace: {namespace!r} is no name of a namespace (RFC 1123 label: a-z, 0-9 and '-', 63 at most)"
        )
    matched = _IMAGE.fullmatch(image)
    if matched is None or len(matched["name"]) > _LONGEST_IMAGE_NAME:
        raise ConfigError(
            f"--image: {image[:300]!r} is no image reference; expected [REGISTRY[:PORT]/]NAME[:TAG][@DIGEST], such as "
            "registry.example.com/apiha:0.1.0"
        )
    return Settings(
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
            f"--vip: {canonical} means another machine on every node; expected an address of the Service CIDR"
        )
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        raise ConfigError(
            f"--vip: {text!r} is an IPv4 address in IPv6 clothes; expected {address.ipv4_mapped}"
        )
    return canonical


def updater_arguments(settings: Settings) -> list[str]:
    """The flags of `apiha updater` in the Pod."""
    return [
        f"--namespace={settings.namespace}",
        f"--service={SERVICE}",
        *(f"--vip={vip}" for vip in settings.vips),
        f"--host={settings.host}",
    ]


def render(settings: Settings) -> dict[str, str]:
    """The manifests, file name to YAML text, in the order of application; the same for the same settings."""
    values: Mapping[str, object] = {
        "namespace": settings.namespace,
        # In `default`, where the installations of all namespaces meet; 253 characters at most.
        "source_role": f"apiserver-updater-source-{settings.namespace}",
        "nodes_role": f"apiha-nodes-{settings.namespace}",
        "image": settings.image,
        "cluster_ip": settings.vips[0],
        "cluster_ips": settings.vips,
        "ip_families": settings.families,
        "ip_family_policy": "RequireDualStack" if len(settings.vips) > 1 else "SingleStack",
        "port": settings.port,
        "args": updater_arguments(settings),
    }
    # As JSON, so that a namespace called `y` or `1e3` is a text to every reader of YAML.
    quoted = {key: json.dumps(value) for key, value in values.items()}
    folder = resources.files(__package__)
    slices = [
        {**quoted, "slice": json.dumps(SLICE_NAMES[family]), "family": json.dumps(family)}
        for family in sorted(settings.families)
    ]
    files = {}
    for name in (*([_NAMESPACE_FILE] if settings.create_namespace else []), *TEMPLATES):
        template = Template(folder.joinpath(name).read_text(encoding="utf-8"))
        files[name] = one_stream(
            template.substitute(values) for values in (slices if name == _SLICES else [quoted])
        )
    return files


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
                f"--output-dir: {there[0]} was not written by apiha; expected a new folder, or a base of apiha's"
            )
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in contents.items():
            (directory / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--output-dir: cannot write {directory}: {error.strerror}") from None
    return [directory / name for name in contents]
