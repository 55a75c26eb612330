"""The one value of kubelet's kubeconfig that apiha changes, `server:`, and not a byte beside it. Pure."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from apiha.config import OTHER_YAML_ERRORS

# What a diff of the file must not show: the values of keys that hold secrets.
_SECRET = re.compile(r'("?(?:client-key-data|token|password)"?\s*:\s*)("[^"]*"|[^\s,}]+)')


def is_url_of(url: str, host: str, port: int) -> bool:
    """Whether a server's URL leads to this name and port."""
    try:
        parts = urlsplit(url)
        return (parts.scheme, parts.hostname, parts.port or 443) == ("https", host, port)
    except ValueError:  # a port that is not a number, a bracket left open
        return False


def server_of(text: str) -> str | None:
    """The `server:` of the current context's cluster; None if there is none. Raises ValueError for what is no YAML."""
    node = _server_node(text)
    return None if node is None else str(node.value)


def with_server(text: str, server: str) -> str:
    """The kubeconfig with another server, written as the old one was: with its quotes, in its place.

    Raises ValueError where the value cannot be exchanged alone (there is none, or an alias leads to it).
    """
    node = _server_node(text)
    if node is None:
        raise ValueError("the current context's cluster has no server")
    if node.style not in (None, "'", '"'):
        raise ValueError("its server is a block of text")
    quote = node.style or ""
    changed = f"{text[: node.start_mark.index]}{quote}{server}{quote}{text[node.end_mark.index :]}"
    wanted = _load(text)
    _cluster(wanted)["server"] = server
    try:
        alone = _load(changed) == wanted
    except ValueError:  # an alias led to what was there
        alone = False
    if not alone:
        raise ValueError("its server cannot be changed without changing something else")
    return changed


def without_secrets(data: bytes) -> bytes:
    """The file for a person's eyes."""
    return _SECRET.sub(r"\1(not shown)", data.decode("utf-8", "backslashreplace")).encode()


def _load(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, *OTHER_YAML_ERRORS) as error:
        raise ValueError(" ".join(str(error).split())[:200]) from None


def _server_node(text: str) -> Any:
    """The scalar node of the server, with its place in the text."""
    import yaml

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, *OTHER_YAML_ERRORS) as error:
        raise ValueError(" ".join(str(error).split())[:200]) from None
    context = _named_node(root, "contexts", _scalar(_child(root, "current-context")), "context")
    cluster = _named_node(root, "clusters", _scalar(_child(context, "cluster")), "cluster")
    server = _child(cluster, "server")
    return server if isinstance(server, yaml.ScalarNode) else None


def _child(node: Any, key: str) -> Any:
    import yaml

    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    # The last one counts, as for those who read the values.
    return next((value for name, value in reversed(pairs) if _scalar(name) == key), None)


def _scalar(node: Any) -> str | None:
    import yaml

    return str(node.value) if isinstance(node, yaml.ScalarNode) else None


def _named_node(root: Any, section: str, name: str | None, field: str) -> Any:
    """As `apiha.trust` finds it: the entry with this name, or the only one where no name is given."""
    import yaml

    entries = _child(root, section)
    found = [e for e in (entries.value if isinstance(entries, yaml.SequenceNode) else []) if _child(e, field)]
    for entry in found:
        if _scalar(_child(entry, "name")) == name or (not name and len(found) == 1):
            return _child(entry, field)
    return None


def _cluster(document: Any) -> dict[str, Any]:
    """The same in the values."""
    context = _named(document["contexts"], "context", document.get("current-context"))
    return _named(document["clusters"], "cluster", context.get("cluster"))


def _named(entries: Any, field: str, name: object) -> dict[str, Any]:
    found = [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get(field), dict)]
    entry: dict[str, Any] = next(
        e[field] for e in found if e.get("name") == name or (not name and len(found) == 1)
    )
    return entry
