"""The installer: the values of its DaemonSet, checked, and its manifests."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from apiha.endpoint import Endpoint
from apiha.errors import ConfigError
from apiha.manifests.render import Values, as_yaml, fill

DAEMON_SET = "installer.yaml"
NETWORK_POLICY = "installer-networkpolicy.yaml"
LINUX = {"kubernetes.io/os": "linux"}
EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")

# https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
_PREFIX = r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?"
_KEY = re.compile(rf"(?:{_PREFIX}/)?{_NAME}")
_VALUE = re.compile(rf"(?:{_NAME})?")
_COUNT = re.compile(r"[1-9][0-9]{0,5}|(?:100|[1-9][0-9]?)%")


@dataclass(frozen=True)
class InstallerValues:
    """What the installer's DaemonSet is filled with, checked by `checked_installer`.

    `control_planes` go into each node's new configuration, with the VIP, host and port of `Values`; `tolerations` are
    those of a Pod, `max_unavailable` is a number of nodes or a percentage; `kubelet` points kubelets at the name too;
    `remove` has it uninstall.
    """

    control_planes: tuple[Endpoint, ...] = ()
    tolerations: Sequence[Mapping[str, str]] = ()
    node_selector: Mapping[str, str] = field(default_factory=dict)
    max_unavailable: int | str = 1
    kubelet: bool = False
    remove: bool = False


def checked_installer(
    control_planes: tuple[Endpoint, ...],
    tolerations: Iterable[str],
    node_selector: Iterable[str],
    max_unavailable: str,
    *,
    kubelet: bool = False,
    remove: bool,
) -> InstallerValues:
    """The values from the texts of the command line; raises ConfigError for what no cluster accepts."""
    if not _COUNT.fullmatch(max_unavailable):
        raise ConfigError(
            f"--max-unavailable: {max_unavailable!r}: expected a number of nodes from 1 on, or a percentage from 1% "
            "to 100%"
        )
    return InstallerValues(
        control_planes,
        tuple(_toleration(text) for text in tolerations),
        dict(_label(text) for text in node_selector),
        max_unavailable if max_unavailable.endswith("%") else int(max_unavailable),
        kubelet,
        remove,
    )


def installer_arguments(values: Values, installer: InstallerValues) -> list[str]:
    """The flags of `apiha node-installer` in the Pod."""
    if installer.remove:
        return ["--remove", f"--host={values.host}"]
    # A configuration has one VIP; the first is of the Service's primary family.
    arguments = [f"--vip={values.vips[0]}", f"--host={values.host}", f"--port={values.port}"]
    if installer.control_planes:
        shown = [e.address if e.port == values.port else str(e) for e in installer.control_planes]
        arguments.append(f"--control-plane={','.join(shown)}")
    return [*arguments, *(["--kubelet"] if installer.kubelet else [])]


def render_installer(values: Values, installer: InstallerValues) -> dict[str, str]:
    """The manifests, file name to YAML text; the same for the same values."""
    quoted = as_yaml(
        {
            "namespace": values.namespace,
            "image": values.image,
            "node_selector": {**LINUX, **installer.node_selector},
            "tolerations": list(installer.tolerations),
            "max_unavailable": installer.max_unavailable,
            "installer_args": installer_arguments(values, installer),
        }
    )
    names = [DAEMON_SET, *([NETWORK_POLICY] if values.network_policy else [])]
    return {name: fill(name, quoted) for name in names}


def _toleration(text: str) -> dict[str, str]:
    """A toleration as `kubectl taint` writes a taint: KEY[=VALUE][:EFFECT]; `*` is one of every taint."""
    if text == "*":
        return {"operator": "Exists"}
    rest, colon, effect = text.partition(":")
    key, equals, value = rest.partition("=")
    if not (_KEY.fullmatch(key) and _VALUE.fullmatch(value)) or (colon and effect not in EFFECTS):
        raise ConfigError(
            f"--toleration: {text!r} is not a taint; expected KEY[=VALUE][:EFFECT] with one of the effects "
            f"{', '.join(EFFECTS)}, or * for every taint"
        )
    toleration = {"key": key, "operator": "Equal" if equals else "Exists"}
    return toleration | ({"value": value} if equals else {}) | ({"effect": effect} if colon else {})


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not _KEY.fullmatch(key) or not _VALUE.fullmatch(value):
        raise ConfigError(f"--node-selector: {text!r} is not a label; expected KEY=VALUE")
    return key, value
