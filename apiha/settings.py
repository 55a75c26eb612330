"""Every key of the configuration, declared once, and how its value is read.

The file, the environment (`APIHA_<KEY>`), the flags (`--<key>`), the commented template that `apiha install` writes and
the reference in docs/configuration.md follow from `SETTINGS`.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apiha.durations import parse_duration
from apiha.endpoint import Endpoint, parse_ip, parse_port

ENV_PREFIX = "APIHA_"

_PLAIN = re.compile(r"/[A-Za-z0-9/._+@:-]+")
# RFC 1123, section 2.1: letters, digits and hyphens, up to 63. A host name is made of such labels, up to 253 characters
# in all; the name of a namespace or a Service is one.
LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True)
class Setting:
    """One key of the configuration: how a value of the file, or a text from elsewhere, becomes the field."""

    key: str
    metavar: str
    help: str
    example: str
    from_yaml: Callable[[Any], Any]
    from_text: Callable[[str], Any]

    @property
    def flag(self) -> str:
        """The command-line flag, `--control-plane` for `control_plane`."""
        return "--" + self.key.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable, `APIHA_CONTROL_PLANE` for `control_plane`."""
        return ENV_PREFIX + self.key.upper()


def _kind(value: object) -> str:
    names = {
        dict: "a mapping",
        list: "a list",
        str: "text",
        bool: "true/false",
        int: "a number",
        float: "a number",
    }
    return "nothing" if value is None else names.get(type(value), type(value).__name__)


def _shown(value: object) -> str:
    """The value for a message, shortened as it is written: nested YAML aliases can make it longer than memory."""
    return reprlib.repr(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected text, got {_kind(value)} ({_shown(value)}); put it in quotes")
    return value


def _hostname(value: object) -> str:
    text = _text(value).strip().lower()
    labels = text.split(".")
    if len(text) > 253 or not all(LABEL.fullmatch(label) for label in labels) or labels[-1].isdigit():
        raise ValueError(
            f"{value!r} is not a host name (RFC 1123); expected for example apiserver.cluster.local"
        )
    if text in ("localhost", "localhost.localdomain"):
        raise ValueError(
            f"{value!r} belongs to the loopback address; expected a name of the API server's own"
        )
    return text


def _ip(value: object) -> str:
    return parse_ip(_text(value).strip())


def _yaml_port(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"expected a number from 1 to 65535, got {_kind(value)} ({_shown(value)})")
    return parse_port(value)


def _yaml_bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, got {_kind(value)} ({_shown(value)})")
    return value


def _text_bool(text: str) -> bool:
    known = {
        "true": True,
        "yes": True,
        "1": True,
        "on": True,
        "false": False,
        "no": False,
        "0": False,
        "off": False,
    }
    try:
        return known[text.strip().lower()]
    except KeyError:
        raise ValueError(f"expected true or false, got {text!r}") from None


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(
            f"expected a duration such as 500ms, 15s or plain seconds, got {_kind(value)} ({_shown(value)})"
        )
    seconds = parse_duration(value if isinstance(value, str) else repr(value))
    if not 0.01 <= seconds <= 300:
        raise ValueError(f"{value!r} is out of range; expected 10ms to 5m")
    return seconds


def _path(value: object) -> Path:
    path = Path(_text(value))
    if not path.is_absolute():
        raise ValueError(f"{value!r} is not an absolute path")
    return path


def _plain_path(value: object) -> Path:
    """A path that stands in a unit as it is, without quotes, specifiers and spaces."""
    path = _path(value)
    if not _PLAIN.fullmatch(str(path)) or ".." in path.parts:
        raise ValueError(
            f"{value!r} is not a plain path; expected letters, digits, and any of / . _ - + @ : in it"
        )
    return path


def _choice(*names: str) -> Callable[[object], str]:
    def pick(value: object) -> str:
        if value not in names:
            raise ValueError(f"expected {' or '.join(names)}, got {_shown(value)}")
        return str(value)

    return pick


def _yaml_fail_fast(value: object) -> str:
    """The choice; `off` without quotes is a boolean in YAML."""
    return _choice("node", "pods", "off")("off" if value is False else value)


def _endpoints(value: object) -> tuple[Endpoint, ...]:
    """Endpoints whose port is 0 where none was written; `load` puts in the configured one."""
    if not isinstance(value, list):
        raise ValueError(f"expected a list of addresses, got {_kind(value)} ({_shown(value)})")
    if not value:
        raise ValueError("the list is empty; expected the addresses of the control planes")
    return tuple(Endpoint.parse(_text(item), 0) for item in value)


def _text_endpoints(text: str) -> tuple[Endpoint, ...]:
    return _endpoints([item for item in (part.strip() for part in text.split(",")) if item])


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "host",
        "NAME",
        "The name that kubeconfigs and the serving certificates carry.",
        "apiserver.cluster.local",
        _hostname,
        _hostname,
    ),
    Setting("port", "PORT", "The API server's port.", "6443", _yaml_port, parse_port),
    Setting(
        "control_plane",
        "ADDR[:PORT],...",
        "Addresses of the control planes, IPv4 or IPv6, ADDR or ADDR:PORT.",
        "[10.0.0.11, 10.0.0.12, 10.0.0.13]",
        _endpoints,
        _text_endpoints,
    ),
    Setting(
        "vip",
        "ADDR",
        "The address that balances over the control planes: the clusterIP of the Service `apiserver`, or any other.",
        "10.96.0.100",
        _ip,
        _ip,
    ),
    Setting(
        "role",
        "worker|control-plane",
        "On a control-plane node the name points at 127.0.0.1 first, its own API server.",
        "worker",
        _choice("worker", "control-plane"),
        _choice("worker", "control-plane"),
    ),
    Setting(
        "ca_file",
        "FILE",
        "The cluster's CA (PEM). Default: the CA inside /etc/kubernetes/kubelet.conf, else /etc/kubernetes/pki/ca.crt.",
        "/etc/kubernetes/pki/ca.crt",
        _path,
        _path,
    ),
    Setting(
        "client_cert",
        "FILE",
        "Client certificate (PEM) for clusters with anonymous access off; needed only to see readiness.",
        "/var/lib/kubelet/pki/kubelet-client-current.pem",
        _path,
        _path,
    ),
    Setting(
        "client_key",
        "FILE",
        "The key of client_cert (PEM). Default: the key inside client_cert.",
        "/var/lib/kubelet/pki/kubelet-client-current.pem",
        _path,
        _path,
    ),
    Setting(
        "fallbacks",
        "true|false",
        "List the other control planes after the chosen address.",
        "true",
        _yaml_bool,
        _text_bool,
    ),
    Setting(
        "probe_timeout",
        "DURATION",
        "How long one probe of an address may take, connection, TLS and answer together.",
        "2s",
        _seconds,
        _seconds,
    ),
    Setting(
        "hedge_delay",
        "DURATION",
        "How long to wait for an answer before the next control plane is tried as well.",
        "150ms",
        _seconds,
        _seconds,
    ),
    Setting(
        "on_conflict",
        "refuse|adopt",
        "A line outside the block names the host too: stop (refuse), or comment it out until `apiha unpin` (adopt).",
        "refuse",
        _choice("refuse", "adopt"),
        _choice("refuse", "adopt"),
    ),
    Setting(
        "fail_fast",
        "node|pods|off",
        "Refuse a silent control plane at once: for the node's own programs, for its Pods as well, or not at all.",
        "node",
        _yaml_fail_fast,
        _choice("node", "pods", "off"),
    ),
    Setting(
        "textfile_dir",
        "DIR",
        "Write metrics for node_exporter's textfile collector into this folder. Default: none are written.",
        "/var/lib/node_exporter/textfile_collector",
        _plain_path,
        _plain_path,
    ),
    Setting(
        "insecure_skip_tls_verify",
        "true|false",
        "Do not verify certificates: any machine that answers can become this node's API server. For tests only.",
        "false",
        _yaml_bool,
        _text_bool,
    ),
)
BY_KEY = {setting.key: setting for setting in SETTINGS}
