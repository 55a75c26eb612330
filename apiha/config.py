"""Settings: what a node is told. Flags beat the environment, the environment beats the file."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from apiha.endpoint import Endpoint
from apiha.errors import ConfigError
from apiha.paths import CONFIG_FILE
from apiha.printable import one_line
from apiha.settings import BY_KEY, ENV_PREFIX, SETTINGS, Setting

# Seconds. The boot unit ends a pin after 24 s, and a longer time-out would leave that to one silent address.
LONGEST_PROBE = 10.0
LARGEST_FILE = 1 << 20  # bytes; a config beyond that is some other file
# What PyYAML raises beside YAMLError: for values that are tagged or shaped as what they are not (dates, numbers,
# `!!bool x`), and for deep nesting.
OTHER_YAML_ERRORS = (
    RecursionError,
    ValueError,
    OverflowError,
    TypeError,
    AttributeError,
    LookupError,
)

# What a package of the distribution puts at CONFIG_FILE. The same bytes in every release: a package manager asks what
# to do with a configuration file that both sides changed, and an upgrade of a fleet must not ask.
PACKAGED = """\
# apiha: where this node finds its API server. `apiha install` fills this in. All keys: man apiha.yaml
#
# control_plane: [10.0.0.11, 10.0.0.12, 10.0.0.13]
# vip: 10.96.0.100
"""

Role = Literal["worker", "control-plane"]
OnConflict = Literal["refuse", "adopt"]
FailFast = Literal["node", "pods", "off"]


@dataclass(frozen=True)
class Config:
    """The settings of a node, checked. Times are in seconds."""

    host: str = "apiserver.cluster.local"
    port: int = 6443
    control_plane: tuple[Endpoint, ...] = ()
    vip: str | None = None
    role: Role = "worker"
    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    fallbacks: bool = True
    probe_timeout: float = 2.0
    hedge_delay: float = 0.15
    on_conflict: OnConflict = "refuse"
    fail_fast: FailFast = "node"
    textfile_dir: Path | None = None
    insecure_skip_tls_verify: bool = False

    @property
    def vip_endpoint(self) -> Endpoint | None:
        """Where the VIP answers, if one is configured."""
        return Endpoint(self.vip, self.port) if self.vip else None


assert [f.name for f in fields(Config)] == [s.key for s in SETTINGS]


def load(
    path: Path | None,
    environ: Mapping[str, str],
    flags: Mapping[str, str | None],
    *,
    path_required: bool = True,
) -> Config:
    """The configuration from the file at `path`, the variables in `environ` and the `flags` (key to text).

    A missing file is an error if `path_required`, else it counts as empty. Raises ConfigError with one line
    that names the source, the key and what was expected.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    if path is not None:
        for key, (value, where) in _read_file(path, required=path_required).items():
            values[key], sources[key] = _convert(BY_KEY[key].from_yaml, value, where, key), where
    for setting in SETTINGS:
        for text, where in (
            (environ.get(setting.variable), setting.variable),
            (flags.get(setting.key), setting.flag),
        ):
            if text is not None:
                if not text.strip():
                    raise ConfigError(
                        f"{where}: {setting.key}: is empty; expected {setting.metavar}, or leave it unset"
                    )
                values[setting.key], sources[setting.key] = (
                    _convert(setting.from_text, text, where, setting.key),
                    where,
                )
    return _checked(values, sources)


def unknown_variables(environ: Mapping[str, str], own: Collection[str] = ()) -> list[str]:
    """`APIHA_…` variables that are neither settings nor among the command line's `own`: most likely typing errors."""
    known = {*(setting.variable for setting in SETTINGS), *own}
    return sorted(name for name in environ if name.startswith(ENV_PREFIX) and name not in known)


def capped(config: Config) -> tuple[Config, str | None]:
    """The configuration with `probe_timeout` at most `LONGEST_PROBE`, and the warning about it if it was longer."""
    if config.probe_timeout <= LONGEST_PROBE:
        return config, None
    return replace(config, probe_timeout=LONGEST_PROBE), (
        f"probe_timeout: {config.probe_timeout:g} s is longer than a boot may wait for one address; "
        f"using {LONGEST_PROBE:g} s"
    )


def require_control_plane(config: Config) -> None:
    """Raises ConfigError unless the configuration names a control plane."""
    if not config.control_plane:
        raise ConfigError(_missing("control_plane", "the addresses of the control planes"))


def require_vip(config: Config) -> Endpoint:
    """The endpoint of the VIP; raises ConfigError if none is configured."""
    if config.vip_endpoint is None:
        raise ConfigError(_missing("vip", "the clusterIP of the Service `apiserver`"))
    return config.vip_endpoint


def _missing(key: str, what: str) -> str:
    setting = BY_KEY[key]
    return (
        f"{key}: not set; expected {what}: write it to {CONFIG_FILE} (key {key}), "
        f"set {setting.variable}, or give {setting.flag} {setting.metavar}"
    )


def _convert(convert: Callable[[Any], Any], value: Any, where: str, key: str) -> Any:
    try:
        return convert(value)
    except ValueError as error:
        raise ConfigError(f"{where}: {key}: {_one_line(str(error))}") from None


def _one_line(text: str) -> str:
    return one_line(text, 500)


def _checked(values: dict[str, Any], sources: dict[str, str]) -> Config:
    """What no key can say alone: default ports, duplicates, settings that contradict each other."""
    port = values.get("port", Config.port)
    if "control_plane" in values:
        endpoints = tuple(Endpoint(e.address, e.port or port) for e in values["control_plane"])
        where = sources["control_plane"]
        for index, endpoint in enumerate(endpoints):
            if endpoint in endpoints[:index]:
                raise ConfigError(
                    f"{where}: control_plane: {endpoint} is listed twice; expected each address once"
                )
        values["control_plane"] = endpoints
        if values.get("vip") in [e.address for e in endpoints]:
            raise ConfigError(
                f"{sources['vip']}: vip: {values['vip']} is also in control_plane; "
                "expected an address that balances over the control planes"
            )
    if "client_key" in values and "client_cert" not in values:
        raise ConfigError(
            f"{sources['client_key']}: client_key: set without client_cert; expected both or client_cert alone"
        )
    return Config(**values)


def read_text(path: Path, what: str) -> str:
    """The text of a UTF-8 file of at most `LARGEST_FILE` bytes; raises ConfigError with one line otherwise."""
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot read {what}: {error.strerror or error}") from None
    except ValueError:  # a NUL in the path
        raise ConfigError(f"{str(path)!r}: cannot read {what}: not a path") from None
    if len(data) > LARGEST_FILE:
        raise ConfigError(f"{path}: larger than {LARGEST_FILE} bytes; expected {what}")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; expected {what} as UTF-8 text") from None


def _read_file(path: Path, *, required: bool) -> dict[str, tuple[Any, str]]:
    """Key to (value, "file:line") for a YAML mapping; every key known and given once."""
    if not required:
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError:
            pass  # it may be there: reading it says what is wrong
    import yaml  # 30 ms that a node without a config file need not spend

    text = read_text(path, "the configuration")
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None or root.tag == "tag:yaml.org,2002:null":
            return {}
        if not isinstance(root, yaml.MappingNode):
            raise ConfigError(f"{path}: expected a mapping of keys to values, such as `vip: 10.96.0.100`")
        found: dict[str, tuple[Any, str]] = {}
        for key_node, value_node in root.value:
            where = f"{path}:{key_node.start_mark.line + 1}"
            key = key_node.value
            if not isinstance(key, str) or key not in BY_KEY:
                shown = _one_line(repr(key)) if isinstance(key, str) else "a list or mapping"
                raise ConfigError(f"{where}: {shown}: unknown key{_suggestion(key)}")
            if key in found:
                raise ConfigError(f"{where}: {key}: given twice (first at {found[key][1]}); expected it once")
            found[key] = (loader.construct_object(value_node, deep=True), where)
        return found
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}:{mark.column + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{path}{place}: not valid YAML: {_one_line(problem)}") from None
    except OTHER_YAML_ERRORS as error:
        raise ConfigError(f"{path}: not valid YAML: {_one_line(str(error))}") from None


def _suggestion(key: object) -> str:
    import difflib

    close = difflib.get_close_matches(str(key), BY_KEY, n=1)
    return f"; did you mean {close[0]}?" if close else f"; expected one of {', '.join(BY_KEY)}"


def template(given: Mapping[str, str] | None = None) -> str:
    """The commented configuration file that `apiha install` puts on a node; `given` (key to text) is filled in.

    The texts are those of flags; the caller has had them checked by `load`.
    """
    lines = [
        "# apiha: where this node finds its API server. Reference: docs/configuration.md, `apiha --help`.",
        "# Every key can also be set as APIHA_<KEY> in the environment and as --<key> on the command line.",
    ]
    for setting in SETTINGS:
        lines += ["", f"# {setting.help}"]
        if given is not None and setting.key in given:
            lines.append(f"{setting.key}: {_yaml_text(setting, given[setting.key])}")
        else:
            lines.append(f"# {setting.key}: {setting.example}")
    return "\n".join(lines) + "\n"


def short_text(given: Mapping[str, str]) -> str:
    """A configuration file with nothing but these keys; the texts are those of flags, checked by `load`."""
    return "".join(f"{s.key}: {_yaml_text(s, given[s.key])}\n" for s in SETTINGS if s.key in given)


def _yaml_text(setting: Setting, text: str) -> str:
    if setting.example.startswith("["):
        return json.dumps([part.strip() for part in text.split(",") if part.strip()])
    value = setting.from_text(text)
    if isinstance(value, bool):
        return str(value).lower()
    # JSON's strings are YAML's, whatever is in them.
    return str(value) if isinstance(value, int) else json.dumps(text.strip())
