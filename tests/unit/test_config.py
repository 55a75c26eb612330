"""Loading the configuration: every key from every source, precedence, and one clear line for each mistake."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apiha.config import (
    LARGEST_FILE,
    Config,
    load,
    require_control_plane,
    require_vip,
    template,
    unknown_variables,
)
from apiha.durations import format_duration, parse_duration
from apiha.endpoint import Endpoint
from apiha.errors import ConfigError, ExitCode
from apiha.settings import SETTINGS

# For each key: what stands in the file, in the environment and in the flag, and what each becomes.
SOURCES: dict[str, tuple[tuple[str, Any], tuple[str, Any], tuple[str, Any]]] = {
    "host": (("api.one.test", "api.one.test"), ("API.Two.test", "api.two.test"), ("kube", "kube")),
    "port": (("6444", 6444), ("443", 443), ("65535", 65535)),
    "control_plane": (
        (
            "[10.0.0.11, '10.0.0.12:7443', 'fd00::13']",
            (("10.0.0.11", 0), ("10.0.0.12", 7443), ("fd00::13", 0)),
        ),
        ("10.0.0.21, [fd00::22]:7443", (("10.0.0.21", 0), ("fd00::22", 7443))),
        ("FD00:0::31,", (("fd00::31", 0),)),
    ),
    "vip": (("10.96.0.100", "10.96.0.100"), ("fd00::100", "fd00::100"), ("127.0.0.1", "127.0.0.1")),
    "role": (("control-plane", "control-plane"), ("worker", "worker"), ("control-plane", "control-plane")),
    "ca_file": (("/a/ca.crt", Path("/a/ca.crt")), ("/b/ca.crt", Path("/b/ca.crt")), ("/c", Path("/c"))),
    "client_cert": (("/a.crt", Path("/a.crt")), ("/b.crt", Path("/b.crt")), ("/c.crt", Path("/c.crt"))),
    "client_key": (("/a.key", Path("/a.key")), ("/b.key", Path("/b.key")), ("/c.key", Path("/c.key"))),
    "fallbacks": (("false", False), ("true", True), ("no", False)),
    "probe_timeout": (("500ms", 0.5), ("3", 3.0), ("1m", 60.0)),
    "hedge_delay": (("0.2", 0.2), ("50ms", 0.05), ("1s", 1.0)),
    "on_conflict": (("adopt", "adopt"), ("refuse", "refuse"), ("adopt", "adopt")),
    "fail_fast": (("off", "off"), ("pods", "pods"), ("off", "off")),  # YAML's `off` is a boolean
    "textfile_dir": (("/a/b", Path("/a/b")), ("/b", Path("/b")), ("/c.d", Path("/c.d"))),
    "insecure_skip_tls_verify": (("true", True), ("false", False), ("1", True)),
}


def _write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def _expected(key: str, value: Any) -> Any:
    if key == "control_plane":
        return tuple(Endpoint(address, port or Config.port) for address, port in value)
    return value


def test_every_key_has_its_example_here() -> None:
    """No key is left untested."""
    assert list(SOURCES) == [setting.key for setting in SETTINGS] == [field.name for field in fields(Config)]


@pytest.mark.parametrize("key", SOURCES)
def test_flag_beats_environment_beats_file(key: str, tmp_path: Path) -> None:
    """Every key can be set in the file, by APIHA_<KEY> and by flag, and they win in this order."""
    (in_file, from_file), (in_variable, from_variable), (in_flag, from_flag) = SOURCES[key]
    extra = "client_cert: /other.crt\n" if key == "client_key" else ""
    path = _write(tmp_path, f"{extra}{key}: {in_file}\n")
    variable = {f"APIHA_{key.upper()}": in_variable}
    flag: dict[str, str | None] = {key: in_flag}
    unset: dict[str, str | None] = {key: None}
    with_file: dict[str, Config] = {
        "file": load(path, {}, unset),
        "environment": load(path, variable, unset),
        "flag": load(path, variable, flag),
        "flag over file": load(path, {}, flag),
    }
    expected = {
        "file": from_file,
        "environment": from_variable,
        "flag": from_flag,
        "flag over file": from_flag,
    }
    for source, config in with_file.items():
        assert getattr(config, key) == _expected(key, expected[source]), source


def test_nothing_set_gives_the_defaults(tmp_path: Path) -> None:
    """Without file, variables and flags, and with an empty file, the documented defaults hold."""
    assert load(None, {}, {}) == Config()
    assert load(tmp_path / "missing.yaml", {}, {}, path_required=False) == Config()
    for text in ("", "# only a comment\n", "---\n", "\n\n"):
        assert load(_write(tmp_path, text), {}, {}) == Config()
    assert (Config().host, Config().port, Config().role) == ("apiserver.cluster.local", 6443, "worker")
    assert (Config().fallbacks, Config().on_conflict) == (True, "refuse")
    assert (Config().probe_timeout, Config().hedge_delay) == (2.0, 0.15)


def test_port_is_the_default_of_every_address(tmp_path: Path) -> None:
    """`port` holds for addresses without one, wherever either was set, and for the VIP."""
    path = _write(tmp_path, "control_plane: [10.0.0.11, '10.0.0.12:7443']\nvip: 10.96.0.100\n")
    config = load(path, {"APIHA_PORT": "8443"}, {})
    assert config.control_plane == (Endpoint("10.0.0.11", 8443), Endpoint("10.0.0.12", 7443))
    assert config.vip_endpoint == Endpoint("10.96.0.100", 8443)


# One mistake each: the file, and words that the message must hold.
MISTAKES: list[tuple[str, str]] = [
    ("vpi: 10.96.0.100", "did you mean vip?"),
    ("nonsense: 1", "expected one of host, port"),
    ("vip: 10.96.0.100\nvip: 10.96.0.101", "given twice"),
    ("vip: apiserver.example.test", "not an IPv4 or IPv6 address"),
    ("vip: 10.96.0.100:6443", "not an IPv4 or IPv6 address"),
    ("vip: 10", "expected text"),
    ("vip: 0.0.0.0", "not an address"),
    ("vip: ''", "not an IPv4 or IPv6 address"),
    ("vip:", "expected text, got nothing"),
    ("vip: fe80::1%eth0", "zone id"),
    ("vip: 1.2.3.4\ncontrol_plane: [1.2.3.4]", "also in control_plane"),
    ("control_plane: 10.0.0.11", "expected a list of addresses"),
    ("control_plane: []", "empty"),
    ("control_plane:", "expected a list of addresses"),
    ("control_plane: [cp1.example.test]", "a name cannot stand here"),
    ("control_plane: [10.0.0.11, 10.0.0.11]", "listed twice"),
    ("control_plane: [10.0.0.11, '10.0.0.11:6443']", "listed twice"),
    ("control_plane: ['FD00::1', 'fd00:0::1']", "listed twice"),
    ("control_plane: ['10.0.0.11:0']", "1 to 65535"),
    ("control_plane: ['10.0.0.11:65536']", "1 to 65535"),
    ("control_plane: ['10.0.0.11:']", "is not a port"),
    ("control_plane: ['10.0.0.11:https']", "is not a port"),
    ("control_plane: ['[10.0.0.11]:6443']", "brackets are for IPv6"),
    ("control_plane: [{address: 10.0.0.11}]", "expected text, got a mapping"),
    ("control_plane: [256.0.0.1]", "not an IPv4 or IPv6 address"),
    ("control_plane: [010.0.0.1]", "not an IPv4 or IPv6 address"),
    ("control_plane: [224.0.0.1]", "not an address"),
    ("port: '6443'", "expected a number from 1 to 65535, got text"),
    ("port: 0", "1 to 65535"),
    ("port: 70000", "1 to 65535"),
    ("port: -1", "1 to 65535"),
    ("port: true", "expected a number"),
    ("port: 6443.0", "expected a number"),
    ("host: https://apiserver.cluster.local", "not a host name"),
    ("host: 10.0.0.1", "not a host name"),
    ("host: localhost", "loopback"),
    ("host: a..b", "not a host name"),
    ("host: 'a b'", "not a host name"),
    (f"host: {'a' * 64}.test", "not a host name"),
    ("host: [a]", "expected text, got a list"),
    ("role: master", "expected worker or control-plane"),
    ("role: [worker]", "expected worker or control-plane"),
    ("on_conflict: overwrite", "expected refuse or adopt"),
    ("fail_fast: on", "expected node or pods or off, got True"),
    ("ca_file: pki/ca.crt", "not an absolute path"),
    ("ca_file: 7", "expected text"),
    ("client_key: /a.key", "set without client_cert"),
    ("fallbacks: 'yes please'", "expected true or false"),
    ("fallbacks: 1", "expected true or false"),
    ("insecure_skip_tls_verify: 'true'", "expected true or false"),
    ("probe_timeout: soon", "not a duration"),
    ("probe_timeout: -1", "not a duration"),
    ("probe_timeout: 0", "out of range"),
    ("probe_timeout: 1h", "out of range"),
    ("hedge_delay: [1]", "expected a duration"),
    ("hedge_delay: .inf", "not a duration"),
    ("hedge_delay: true", "expected a duration"),
    ("- vip", "expected a mapping"),
    ("just words", "expected a mapping"),
    ("vip: [", "not valid YAML"),
    ("vip: 10.0.0.1\n\tport: 1", "not valid YAML"),
    ("vip: a\n---\nvip: b", "not valid YAML"),
    ("vip: *unknown", "not valid YAML"),
    ("vip: !!python/object/apply:os.getcwd []", "not valid YAML"),
    ("vip: !unknown x", "not valid YAML"),
    ("? [vip]\n: 10.96.0.100", "unknown key"),
    ("5: 6", "unknown key"),
]


@pytest.mark.parametrize(("text", "words"), MISTAKES)
def test_mistake_in_the_file_gives_one_line(text: str, words: str, tmp_path: Path) -> None:
    """Each mistake gives one line that names the file, and says what was expected instead."""
    path = _write(tmp_path, text + "\n")
    with pytest.raises(ConfigError) as caught:
        load(path, {}, {})
    message = str(caught.value)
    assert message.startswith(str(path))
    assert words in message
    assert "\n" not in message
    assert "Node(" not in message, "a library's innards are no words for a user"
    assert caught.value.exit_code == ExitCode.CONFIG


def test_mistake_names_line_and_key(tmp_path: Path) -> None:
    """The line of the file and the key come with the message."""
    path = _write(tmp_path, "# comment\nvip: 10.96.0.100\n\nprobe_timeout: soon\n")
    with pytest.raises(ConfigError, match=r"config\.yaml:4: probe_timeout: 'soon' is not a duration"):
        load(path, {}, {})


@pytest.mark.parametrize(
    ("variable", "text", "words"),
    [
        ("APIHA_VIP", "vip.example.test", "not an IPv4 or IPv6 address"),
        ("APIHA_VIP", "", "is empty"),
        ("APIHA_VIP", "  ", "is empty"),
        ("APIHA_PORT", "https", "is not a port"),
        ("APIHA_CONTROL_PLANE", "10.0.0.11 10.0.0.12", "not an IPv4 or IPv6 address"),
        ("APIHA_CONTROL_PLANE", ",", "the list is empty"),
        ("APIHA_CONTROL_PLANE", "10.0.0.11,10.0.0.11:6443", "listed twice"),
        ("APIHA_FALLBACKS", "maybe", "expected true or false"),
        ("APIHA_ROLE", "Worker", "expected worker or control-plane"),
        ("APIHA_CA_FILE", "ca.crt", "not an absolute path"),
        ("APIHA_PROBE_TIMEOUT", "1 fortnight", "not a duration"),
        ("APIHA_CLIENT_KEY", "/a.key", "set without client_cert"),
    ],
)
def test_mistake_elsewhere_names_variable_or_flag(variable: str, text: str, words: str) -> None:
    """A mistake in the environment names the variable, one on the command line the flag."""
    key = variable.removeprefix("APIHA_").lower()
    flag = "--" + key.replace("_", "-")
    for source, environ, flags in ((variable, {variable: text}, {}), (flag, {}, {key: text})):
        with pytest.raises(ConfigError) as caught:
            load(None, environ, flags)
        assert str(caught.value).startswith(f"{source}: {key}: ")
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_unreadable_file_gives_one_line(tmp_path: Path) -> None:
    """A missing file, a folder, a file of another kind or far too large a one: one line that names it."""
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(LARGEST_FILE + 1)
    latin1 = tmp_path / "latin1"
    latin1.write_bytes("# Größe\n".encode("latin-1"))
    for path in (tmp_path / "missing", tmp_path, huge, latin1, tmp_path / "latin1" / "x", Path("/dev/zero")):
        with pytest.raises(ConfigError) as caught:
            load(path, {}, {})
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", SOURCES)
def test_aliases_that_multiply_do_not_fill_memory(key: str, tmp_path: Path) -> None:
    """A few lines of nested aliases ("billion laughs") end in an error at once, not in gigabytes of message."""
    levels = ["&a0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"&a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    path = _write(tmp_path, f"{key}: [{', '.join(levels)}]\n")
    with pytest.raises(ConfigError) as caught:
        load(path, {}, {})
    assert len(str(caught.value)) < 2000


# ---------------------------------------------------------------------------- whatever is written

_words = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["10.0.0.11", "10.0.0.12:6443", "fd00::1", "[fd00::1]:1", "worker", "adopt", "/ca.crt", "2s", "500ms"]
    ),
)
_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), _words, st.dates(), st.binary(max_size=4)
)
_values = st.recursive(
    _scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_words, inner, max_size=2)),
    max_leaves=6,
)
_keys = st.one_of(st.sampled_from([setting.key for setting in SETTINGS]), _words)
_documents = st.dictionaries(_keys, _values, max_size=5).map(
    lambda document: yaml.safe_dump(document, allow_unicode=True).encode("utf-8", "surrogatepass")
)
# YAML that is odd, but short: tags that convert and fail, aliases, merges, documents, depth.
_odd_values = st.sampled_from(
    [
        "!!bool maybe", "!!int ''", "!!int x", "!!int 0x", "!!int '-'", "!!float ''", "!!float x", "!!null x",
        "!!timestamp x", "!!timestamp 2001-99-99", "2001-99-99", "2001-01-01 25:61:61", "!!binary '*'",
        "!!binary é", "!!omap [a]", "!!pairs [a]", "!!set [a]", "!!map x", "!!seq x", "!!str [a]", "&a [*a]",
        "&a {a: *a}", "{? [a] : b}", "{? {} : b}", "[" * 2000, "[" * 400 + "]" * 400, "{<<: x}", "{<<: [x]}",
        "1:60:60", "190:20:30.15", "0b12", "0o9", "-.inf", ".nan", "1e400", "9" * 5000, "!!int " + "9" * 5000,
        "|\n  a\n  b", ">-\n  a", "'a\n\n  b'", '"\\x00"', '"\\uD800"', "=", "<<", "~", "@x", "`x", "%x", "!<x> y",
    ]
)  # fmt: skip
_odd = st.builds(
    lambda key, value, tail: f"{key}: {value}\n{tail}".encode(),
    st.sampled_from([*(setting.key for setting in SETTINGS), "<<", "=", "!!int x", "? "]),
    _odd_values,
    st.sampled_from(["", "---\n", "...\n", "\t", "vip: 10.0.0.1", "%YAML 9.9\n---\n"]),
)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.one_of(st.binary(max_size=200), _documents, _odd))
def test_any_file_gives_a_config_or_a_config_error(content: bytes, tmp_path: Path) -> None:
    """Whatever the file holds, the outcome is a Config or one line of ConfigError; never anything else."""
    path = _write(tmp_path, content)
    try:
        config = load(path, {}, {})
    except ConfigError as error:
        message = str(error)
    else:
        _assert_sound(config)
        return
    assert message.startswith(str(path))
    assert len(message.splitlines()) == 1


@settings(max_examples=200)
@given(
    variables=st.dictionaries(st.sampled_from([s.variable for s in SETTINGS]), _words, max_size=4),
    flags=st.dictionaries(
        st.sampled_from([s.key for s in SETTINGS]), st.one_of(st.none(), _words), max_size=4
    ),
)
def test_any_environment_and_flags_give_a_config_or_a_config_error(
    variables: dict[str, str], flags: dict[str, str | None]
) -> None:
    """Whatever variables and flags hold, the outcome is a Config or one line of ConfigError."""
    try:
        config = load(None, variables, flags)
    except ConfigError as error:
        message = str(error)
    else:
        _assert_sound(config)
        return
    assert len(message.splitlines()) == 1


def _assert_sound(config: Config) -> None:
    assert isinstance(config, Config)
    assert 1 <= config.port <= 65535
    assert all(1 <= endpoint.port <= 65535 for endpoint in config.control_plane)
    assert len(set(config.control_plane)) == len(config.control_plane)
    assert config.role in ("worker", "control-plane")
    assert config.on_conflict in ("refuse", "adopt")
    assert 0 < config.probe_timeout <= 300
    assert 0 < config.hedge_delay <= 300
    assert all(
        path is None or path.is_absolute() for path in (config.ca_file, config.client_cert, config.client_key)
    )


# ---------------------------------------------------------------------------- template, variables, what is required


def test_template_is_valid_and_all_defaults(tmp_path: Path) -> None:
    """The file that `apiha install` writes changes nothing until a line is uncommented."""
    assert load(_write(tmp_path, template()), {}, {}) == Config()


def test_template_lines_work_when_uncommented(tmp_path: Path) -> None:
    """Every example in the template is a valid setting, and every key has one."""
    keys = {setting.key for setting in SETTINGS}
    lines = [line.removeprefix("# ") for line in template().splitlines()]
    examples = [line for line in lines if line.split(":")[0] in keys]
    assert {line.split(":")[0] for line in examples} == keys
    config = load(_write(tmp_path, "\n".join(examples)), {}, {})
    assert config.control_plane
    assert config.vip


def test_unknown_variables_are_named() -> None:
    """A mistyped APIHA_ variable is found; the known ones and those of others are not."""
    environ = {setting.variable: "x" for setting in SETTINGS}
    environ |= {"APIHA_VPI": "10.0.0.1", "APIHA_DEBUG": "1", "PATH": "/bin"}
    assert unknown_variables(environ, ["APIHA_DEBUG"]) == ["APIHA_VPI"]


def test_missing_requirements_name_all_three_places() -> None:
    """Where a command needs a key, the error says how to set it by file, variable and flag."""
    for require, key in ((require_control_plane, "control_plane"), (require_vip, "vip")):
        with pytest.raises(ConfigError) as caught:
            require(Config())
        message = str(caught.value)
        assert all(word in message for word in (key, f"APIHA_{key.upper()}", f"--{key.replace('_', '-')}"))
    require_control_plane(Config(control_plane=(Endpoint("10.0.0.11", 6443),)))
    assert require_vip(Config(vip="fd00::1", port=7443)) == Endpoint("fd00::1", 7443)


# ---------------------------------------------------------------------------- durations


@given(st.integers(0, 10**6), st.sampled_from([("ms", 0.001), ("s", 1.0), ("m", 60.0), ("", 1.0)]))
def test_durations_are_seconds(number: int, unit: tuple[str, float]) -> None:
    """`500ms`, `15s`, `2m` and plain seconds mean what they say, up to a year."""
    suffix, factor = unit
    if number * factor <= 366 * 86400:
        assert parse_duration(f"{number}{suffix}") == pytest.approx(number * factor)
    else:
        with pytest.raises(ValueError, match="too long"):
            parse_duration(f"{number}{suffix}")


@given(st.text(max_size=12))
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    """No text makes anything but a finite, non-negative number of seconds or a ValueError."""
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    assert 0 <= seconds <= 366 * 86400


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.25, "250ms"), (3.21, "3.2s"), (125, "2m05s"), (0, "0ms"), (59.99, "1m00s")]
)
def test_durations_are_shown_short(seconds: float, text: str) -> None:
    """Spans of time are shown as people write them."""
    assert format_duration(seconds) == text
