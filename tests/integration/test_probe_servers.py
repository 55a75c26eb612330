"""Probing real TLS servers on loopback: what each kind is taken for, and what none of them can do to us."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apiha.config import Config
from apiha.endpoint import Endpoint
from apiha.errors import ConfigError
from apiha.node.learned import NotLearned, fetch_control_planes
from apiha.probe import Health, Prober, probe_all
from apiha.trust import make_ssl_context
from tests.support.control_plane import BEHAVIOURS, DEFAULT_HOST, IMPOSTORS, Authority, ControlPlane
from tests.support.probing import MakeProber, StartPlane, endpoint_of, eventually

# What every behaviour is taken for: state, HTTP status, and a word that the explanation must hold.
EXPECTED: dict[str, tuple[Health, int | None, str]] = {
    "ready": (Health.READY, 200, "ready"),
    "not_ready": (Health.NOT_READY, 500, "etcd"),
    "unauthorized": (Health.ALIVE, 401, "hidden"),
    "forbidden": (Health.ALIVE, 403, "hidden"),
    "client_certificate": (Health.ALIVE, 401, "hidden"),
    "client_certificate_required": (Health.BROKEN, None, "certificate required"),
    "redirect": (Health.NOT_READY, 302, "302"),
    "slow": (Health.READY, 200, "ready"),
    "silent": (Health.TIMEOUT, None, "no answer"),
    "tls_silent": (Health.TIMEOUT, None, "no answer"),
    "blackholed": (Health.TIMEOUT, None, "no answer"),
    "drip": (Health.TIMEOUT, None, "no answer"),
    "drip_body": (Health.READY, 200, "ready"),  # the status says it all; the body is not waited for
    "drip_handshake": (Health.TIMEOUT, None, "no answer"),
    "endless_headers": (Health.BROKEN, None, "no HTTP answer"),
    "endless_body": (Health.READY, 200, "ready"),
    "endless_error": (Health.NOT_READY, 500, "500"),
    "endless_informational": (Health.TIMEOUT, None, "no answer"),
    "scripted": (Health.BROKEN, None, "no HTTP answer"),  # its script is empty: an orderly end
    "reset": (Health.BROKEN, None, "cut"),
    "reset_handshake": (Health.BROKEN, None, "cut"),
    "reset_response": (Health.BROKEN, None, ""),
    "close_response": (Health.BROKEN, None, ""),
    "http10": (Health.BROKEN, None, "TLS"),
    "http10_tls": (Health.UNTRUSTED, None, "not from the cluster's CA"),
    "garbage": (Health.BROKEN, None, "TLS"),
    "garbage_response": (Health.BROKEN, None, "no HTTP answer"),
    "wrong_ca": (Health.UNTRUSTED, None, "not from the cluster's CA"),
    "expired": (Health.UNTRUSTED, None, "expired"),
    "not_yet_valid": (Health.UNTRUSTED, None, "not valid yet"),
    "wrong_name": (Health.UNTRUSTED, None, f"not for {DEFAULT_HOST}"),
    "ip_only": (Health.UNTRUSTED, None, f"not for {DEFAULT_HOST}"),
    "cn_only": (Health.UNTRUSTED, None, f"not for {DEFAULT_HOST}"),  # as Go: names come from the SAN only
    "client_only": (Health.UNTRUSTED, None, "purpose"),
}


BOUND = 20.0  # seconds; generous: what it bounds would never end, or after a time limit that is far from it


def test_every_behaviour_has_an_expectation() -> None:
    """No kind of server is left untested."""
    assert set(EXPECTED) == set(BEHAVIOURS)


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_server_is_taken_for_what_it_is(
    behaviour: str, start_plane: StartPlane, make_prober: MakeProber
) -> None:
    """Each kind of server gives its state, its HTTP status and a one-line explanation, within the time."""
    plane = start_plane(behaviour, delay=0.1, interval=0.05)
    health, status, word = EXPECTED[behaviour]
    timeout = 0.5 if health is Health.TIMEOUT else 10.0
    began = time.monotonic()
    result = make_prober(timeout=timeout).probe(endpoint_of(plane))
    elapsed = time.monotonic() - began
    assert (result.health, result.status) == (health, status), result
    assert word in result.detail
    assert result.detail.isprintable()
    assert len(result.detail) < 300
    assert result.endpoint == endpoint_of(plane)
    assert 0 < result.latency <= elapsed
    assert elapsed < BOUND, "a probe outlived its time limit"


@pytest.mark.parametrize("behaviour", IMPOSTORS)
def test_impostor_is_never_genuine_or_usable(
    behaviour: str, start_plane: StartPlane, make_prober: MakeProber
) -> None:
    """A server that answers 200 without a valid certificate for the name is not taken for an API server."""
    plane = start_plane(behaviour)
    result = make_prober().probe(endpoint_of(plane))
    assert not result.health.genuine
    assert not result.health.usable
    assert plane.counters.requests == [], "asked something of a server that had not proved itself"


def test_refused_when_nobody_listens(start_plane: StartPlane, make_prober: MakeProber) -> None:
    """A port without a listener is refused, and ready again as soon as the server is back."""
    plane = start_plane()
    prober = make_prober()
    plane.stop()
    assert prober.probe(endpoint_of(plane)).health is Health.REFUSED
    plane.start()
    assert prober.probe(endpoint_of(plane)).health is Health.READY


def test_server_that_dies_during_the_probe_is_broken(
    start_plane: StartPlane, make_prober: MakeProber
) -> None:
    """A control plane killed between handshake and answer counts as broken at once, not after the timeout."""
    plane = start_plane("tls_silent")
    prober = make_prober(timeout=60)
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(prober.probe, endpoint_of(plane))
        assert eventually(lambda: plane.counters.handshakes == 1)
        plane.stop()
        assert pending.result(timeout=BOUND).health is Health.BROKEN


def test_slow_server_beyond_the_timeout_is_a_timeout(
    start_plane: StartPlane, make_prober: MakeProber
) -> None:
    """The right answer that comes too late is no answer."""
    plane = start_plane("slow", delay=5.0)
    assert make_prober(timeout=0.2).probe(endpoint_of(plane)).health is Health.TIMEOUT


def test_asks_for_readyz_by_name_at_the_address(start_plane: StartPlane, make_prober: MakeProber) -> None:
    """SNI and Host carry the cluster's name though the connection goes to the IP; /readyz is asked, once."""
    plane = start_plane()
    make_prober().probe(endpoint_of(plane))
    assert plane.counters.server_names == [DEFAULT_HOST]
    (request,) = plane.counters.requests
    assert (request.method, request.target) == ("GET", "/readyz")
    assert request.headers["host"] == f"{DEFAULT_HOST}:{plane.port}"
    assert request.headers["user-agent"].startswith("apiha/")
    assert "authorization" not in request.headers


def test_every_probe_is_a_fresh_connection(start_plane: StartPlane, make_prober: MakeProber) -> None:
    """Nothing is kept alive: a kept connection says nothing about the next one."""
    plane = start_plane()
    prober = make_prober()
    for _ in range(3):
        assert prober.probe(endpoint_of(plane)).health is Health.READY
    assert (plane.counters.connections, plane.counters.handshakes) == (3, 3)


def test_ipv6(start_plane: StartPlane, make_prober: MakeProber) -> None:
    """A control plane on IPv6 is probed like any other, its name in SNI and Host."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as trial:
        trial.bind(("::1", 0))
        plane = start_plane(address="::1")
        assert make_prober().probe(Endpoint("::1", plane.port)).health is Health.READY
        assert plane.counters.requests[0].headers["host"] == f"{DEFAULT_HOST}:{plane.port}"
        plane.behaviour = "wrong_name"
        assert make_prober().probe(Endpoint("::1", plane.port)).health is Health.UNTRUSTED
        return
    pytest.skip("no IPv6 on loopback here: enable it with sysctl net.ipv6.conf.lo.disable_ipv6=0")


def test_environment_has_no_say(
    start_plane: StartPlane,
    make_prober: MakeProber,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Proxy variables are ignored, and SSL_CERT_FILE neither adds a CA nor takes ours away."""
    proxy = start_plane(address="127.0.0.12")
    for variable in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(variable, f"http://127.0.0.12:{proxy.port}")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.stranger_ca_file))
    monkeypatch.setenv("SSL_CERT_DIR", str(authority.stranger_ca_file.parent))
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)
    plane = start_plane()
    assert make_prober().probe(endpoint_of(plane)).health is Health.READY
    plane.behaviour = "wrong_ca"
    assert make_prober().probe(endpoint_of(plane)).health is Health.UNTRUSTED
    assert proxy.counters.connections == 0


def test_redirect_is_not_followed(start_plane: StartPlane, make_prober: MakeProber) -> None:
    """A redirect is a status like any other; the place it names is not contacted."""
    elsewhere = start_plane(address="127.0.0.12")
    plane = start_plane("redirect", redirect_to=f"https://{elsewhere.endpoint}/readyz")
    result = make_prober().probe(endpoint_of(plane))
    assert (result.health, result.status) == (Health.NOT_READY, 302)
    assert elsewhere.counters.connections == 0


@pytest.mark.parametrize("behaviour", ["client_certificate", "client_certificate_required"])
def test_client_certificate_is_used_when_configured(
    behaviour: str, start_plane: StartPlane, make_prober: MakeProber, authority: Authority
) -> None:
    """With anonymous access off, the configured client certificate shows the readiness."""
    plane = start_plane(behaviour)
    client = authority.issue_client()
    prober = make_prober(client_cert=client.cert, client_key=client.key)
    assert prober.probe(endpoint_of(plane)).health is Health.READY
    assert plane.counters.client_certificates == ["O=system:nodes,CN=system:node:worker-1"]


def test_client_certificate_and_key_in_one_file(
    start_plane: StartPlane, make_prober: MakeProber, authority: Authority, tmp_path: Path
) -> None:
    """A file with both certificate and key, as kubelet-client-current.pem is, works without `client_key`."""
    client = authority.issue_client()
    both = tmp_path / "kubelet-client-current.pem"
    both.write_bytes(client.cert.read_bytes() + client.key.read_bytes())
    plane = start_plane("client_certificate")
    assert make_prober(client_cert=both).probe(endpoint_of(plane)).health is Health.READY


def test_impostor_does_not_see_the_client_certificate_accepted(
    start_plane: StartPlane, make_prober: MakeProber, authority: Authority
) -> None:
    """With a client certificate configured, an impostor is still untrusted and is asked nothing."""
    client = authority.issue_client()
    plane = start_plane("wrong_ca")
    prober = make_prober(client_cert=client.cert, client_key=client.key)
    assert prober.probe(endpoint_of(plane)).health is Health.UNTRUSTED
    assert plane.counters.requests == []


@pytest.mark.parametrize("behaviour", ["expired", "not_yet_valid"])
def test_certificate_outside_its_validity_is_a_clock_problem(
    behaviour: str, start_plane: StartPlane, make_prober: MakeProber
) -> None:
    """Wrong dates are reported as such; a prober told to ignore them reads the server's own clock."""
    plane = start_plane(behaviour)
    assert make_prober().probe(endpoint_of(plane)).clock_problem
    lenient = make_prober(ignore_validity_period=True).probe(endpoint_of(plane))
    assert lenient.health is Health.READY
    assert lenient.server_time is not None
    assert abs(lenient.server_time - datetime.now(timezone.utc)) < timedelta(minutes=5)


@pytest.mark.parametrize("behaviour", ["wrong_ca", "wrong_name", "ip_only", "http10_tls"])
def test_other_certificate_trouble_is_no_clock_problem(
    behaviour: str, start_plane: StartPlane, make_prober: MakeProber
) -> None:
    """A wrong CA or name is not blamed on the clock, and ignoring dates does not let it pass."""
    plane = start_plane(behaviour)
    assert not make_prober().probe(endpoint_of(plane)).clock_problem
    lenient = make_prober(ignore_validity_period=True).probe(endpoint_of(plane))
    assert lenient.health is Health.UNTRUSTED


def test_certificate_expiry_is_reported(
    start_plane: StartPlane, make_prober: MakeProber, authority: Authority
) -> None:
    """The end of the serving certificate's validity comes with the answer, in UTC."""
    plane = start_plane(certificate=authority.issue(days=3))
    expires = make_prober().probe(endpoint_of(plane)).certificate_expires
    assert expires is not None
    assert abs(expires - (datetime.now(timezone.utc) + timedelta(days=3))) < timedelta(minutes=5)


def test_insecure_takes_any_certificate(start_plane: StartPlane, make_prober: MakeProber) -> None:
    """`insecure_skip_tls_verify` lets any certificate pass, and nothing else: no TLS is no API server."""
    prober = make_prober(ca_pem=None, insecure=True)
    for behaviour in ("wrong_ca", "expired", "wrong_name", "ip_only"):
        plane = start_plane(behaviour)
        assert prober.probe(endpoint_of(plane)).health is Health.READY
        plane.close()
    assert prober.probe(endpoint_of(start_plane("http10"))).health is Health.BROKEN


def test_ca_bundle_of_two_trusts_both(
    start_plane: StartPlane, make_prober: MakeProber, authority: Authority
) -> None:
    """While a CA is rotated, the bundle of the old and the new one accepts certificates of either."""
    prober = make_prober(ca_pem=authority.stranger_ca_file.read_text() + authority.ca_pem)
    plane = start_plane()
    assert prober.probe(endpoint_of(plane)).health is Health.READY
    plane.behaviour = "wrong_ca"
    assert prober.probe(endpoint_of(plane)).health is Health.READY


# ---------------------------------------------------------------------------- what cannot be done to us


@pytest.mark.parametrize(
    "behaviour", ["endless_headers", "endless_body", "endless_error", "endless_informational"]
)
def test_memory_is_bounded_against_endless_answers(
    behaviour: str, start_plane: StartPlane, make_prober: MakeProber
) -> None:
    """A server that never stops sending costs a probe a bounded amount of memory."""
    plane = start_plane(behaviour)
    prober = make_prober(timeout=1.0)
    prober.probe(endpoint_of(plane))  # loads what is loaded once
    tracemalloc.start()
    try:
        prober.probe(endpoint_of(plane))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


def test_deadline_holds_when_the_connection_comes_after_it(
    start_plane: StartPlane, make_prober: MakeProber, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that is made as the time runs out is cut too, even if its server drips for ever after."""
    plane = start_plane("drip", interval=0.05)
    real = socket.create_connection

    def late(*arguments: object, **options: object) -> socket.socket:
        connection = real(*arguments, **options)  # type: ignore[arg-type]
        time.sleep(0.4)
        return connection

    monkeypatch.setattr(socket, "create_connection", late)
    began = time.monotonic()
    result = make_prober(timeout=0.3).probe(endpoint_of(plane))
    assert result.health is Health.TIMEOUT
    assert time.monotonic() - began < BOUND


def test_failed_probes_leave_nothing_behind(start_plane: StartPlane, make_prober: MakeProber) -> None:
    """Descriptors and threads of failed probes are given back."""
    prober = make_prober(timeout=0.2)
    plane = start_plane()
    make_prober().probe(endpoint_of(plane))  # which has the time that a first one may need

    def held() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    assert eventually(lambda: plane.counters.requests != [])
    descriptors, threads = held()
    for behaviour in ("reset", "http10", "wrong_ca", "endless_headers", "tls_silent", "drip"):
        plane.behaviour = behaviour
        for _ in range(3):
            prober.probe(endpoint_of(plane))
    assert eventually(lambda: held()[0] <= descriptors and held()[1] <= threads), held()


def test_prober_is_thread_safe(start_plane: StartPlane, make_prober: MakeProber) -> None:
    """Many probes at once through one prober: every answer belongs to the address that was asked."""
    good, bad = start_plane(), start_plane("not_ready", address="127.0.0.12")
    prober = make_prober(timeout=20)
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(prober.probe, [endpoint_of(good), endpoint_of(bad)] * 30))
    expected = {endpoint_of(good): Health.READY, endpoint_of(bad): Health.NOT_READY}
    assert [result.endpoint for result in results] == [endpoint_of(good), endpoint_of(bad)] * 30
    assert all(result.health is expected[result.endpoint] for result in results)


def test_probe_all_keeps_the_order_and_asks_at_once(start_plane: StartPlane, make_prober: MakeProber) -> None:
    """Results come in the order asked, and eight silent servers take the time of one."""
    planes = [start_plane("silent", address=f"127.0.0.{n}") for n in range(11, 19)] + [start_plane()]
    began = time.monotonic()
    results = probe_all(make_prober(timeout=4.0).probe, [endpoint_of(plane) for plane in planes])
    assert time.monotonic() - began < 8 * 4
    assert [result.endpoint for result in results] == [endpoint_of(plane) for plane in planes]
    assert [result.health for result in results] == [Health.TIMEOUT] * 8 + [Health.READY]


@pytest.fixture(scope="module")
def scripted(authority: Authority) -> ControlPlane:
    """One genuine server for many examples, which sends what the test writes into `script`."""
    return ControlPlane(authority, "127.0.0.14", behaviour="scripted")


_NOISE = st.one_of(
    st.binary(max_size=300),
    st.builds(
        lambda version, status, rest: version + b" " + status + b" " + rest,
        st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2", b"HTTP/0.9", b"http/1.1", b"SSH-2.0"]),
        st.sampled_from([b"200", b"401", b"500", b"20", b"2000", b"-1", b"abc", b""]),
        st.binary(max_size=80),
    ),
    st.builds(
        lambda name, value: b"HTTP/1.1 500 Oops\r\n" + name + b": " + value + b"\r\n\r\n[-]x",
        st.sampled_from([b"Content-Length", b"Transfer-Encoding", b"Date", b"Content-Encoding", b"Location"]),
        st.one_of(
            st.binary(max_size=40), st.sampled_from([b"-1", b"9" * 400, b"chunked, gzip", b"x" * 9000])
        ),
    ),
)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=_NOISE)
def test_no_answer_makes_a_probe_raise(
    script: bytes, scripted: ControlPlane, make_prober: MakeProber
) -> None:
    """Whatever bytes a genuine server sends, a probe gives a result; only HTTP/1 answers count."""
    scripted.script = script
    with scripted:
        result = make_prober().probe(endpoint_of(scripted))
    assert result.detail.isprintable()
    assert result.health in (Health.READY, Health.ALIVE, Health.NOT_READY, Health.BROKEN)
    if result.health.genuine:
        assert script.startswith(b"HTTP/1.")
    if result.health is Health.READY:
        assert script[9:12] == b"200"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(status=st.integers(200, 999))
def test_status_decides(status: int, scripted: ControlPlane, make_prober: MakeProber) -> None:
    """200 is ready, 401 and 403 are alive, any other final status is not ready."""
    scripted.script = b"HTTP/1.1 %d Words\r\nContent-Length: 0\r\n\r\n" % status
    with scripted:
        result = make_prober().probe(endpoint_of(scripted))
    expected = {200: Health.READY, 401: Health.ALIVE, 403: Health.ALIVE}.get(status, Health.NOT_READY)
    assert (result.health, result.status) == (expected, status)


@pytest.mark.parametrize(
    ("date", "year"),
    [
        (b"Fri, 31 Dec 9999 23:59:59 GMT", 9998),
        (b"Fri, 31 Dec 9999 23:59:59 -1200", None),  # beyond what a datetime holds
        (b"Mon, 01 Jan 0001 00:00:00 +1200", 2000),  # two digits: RFC 5322, section 4.3
        (b"Tue, 24 Nov 2026 12:00:00 GMT", 2026),
        (b"yesterday", None),
    ],
)
def test_a_strange_date_is_clamped(
    date: bytes, year: int | None, scripted: ControlPlane, make_prober: MakeProber
) -> None:
    """A time that arithmetic cannot take is none; in any time zone the result can be worked with."""
    scripted.script = b"HTTP/1.1 200 OK\r\nDate: " + date + b"\r\nContent-Length: 2\r\n\r\nok"
    with scripted:
        result = make_prober().probe(endpoint_of(scripted))
    assert result.health is Health.READY
    assert (result.server_time.year if result.server_time else None) == year
    if result.server_time is not None:
        assert result.server_time.astimezone(timezone(timedelta(hours=14))) - timedelta(days=1)


def test_a_gzip_bomb_is_read_raw(scripted: ControlPlane, make_prober: MakeProber) -> None:
    """What a server calls compressed is not decoded: a gigabyte in a megabyte costs neither memory nor time."""
    packer = zlib.compressobj(9, wbits=31)
    body = b"".join(packer.compress(bytes(1 << 20)) for _ in range(900)) + packer.flush()
    scripted.script = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
        % len(body)
    ) + body
    tracemalloc.start()
    try:
        began = time.monotonic()
        with scripted, pytest.raises(NotLearned):
            fetch_control_planes(make_prober(timeout=60), endpoint_of(scripted))
        assert time.monotonic() - began < BOUND
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


# ---------------------------------------------------------------------------- from a configuration


def _config(authority: Authority, **settings: object) -> Config:
    return Config(**{"ca_file": authority.ca_file, **settings})  # type: ignore[arg-type]


def test_prober_from_config(authority: Authority, start_plane: StartPlane) -> None:
    """Host, CA, client certificate and timeout of the configuration are those of the prober."""
    client = authority.issue_client()
    plane = start_plane("client_certificate", host="api.example.test")
    config = _config(authority, host="api.example.test", client_cert=client.cert, client_key=client.key)
    prober = Prober.from_config(config)
    assert prober.timeout == config.probe_timeout
    assert prober.probe(endpoint_of(plane)).health is Health.READY
    assert plane.counters.server_names == ["api.example.test"]


def test_unusable_ca_or_certificate_is_a_config_error(authority: Authority, tmp_path: Path) -> None:
    """A CA or client certificate that is missing or no PEM gives one line that names the file."""
    missing, garbage = tmp_path / "missing.pem", tmp_path / "garbage.pem"
    garbage.write_bytes(b"\x00\xff not a certificate")
    empty = tmp_path / "empty.pem"
    empty.write_bytes(b"")
    client = authority.issue_client()
    broken = [_config(authority, ca_file=path) for path in (missing, garbage, empty, tmp_path)]
    broken += [_config(authority, client_cert=path) for path in (missing, garbage, empty)]
    broken += [_config(authority, client_cert=client.cert, client_key=path) for path in (missing, garbage)]
    broken += [_config(authority, client_cert=client.cert)]  # no key inside
    for config in broken:
        with pytest.raises(ConfigError) as caught:
            Prober.from_config(config)
        message = str(caught.value)
        assert "\n" not in message
        named = [path for path in (config.ca_file, config.client_cert, config.client_key) if path]
        assert any(str(path) in message for path in named), message


def test_encrypted_client_key_does_not_ask_for_a_password(authority: Authority, tmp_path: Path) -> None:
    """An encrypted key fails with an error instead of a prompt that would hold up a boot."""
    from cryptography.hazmat.primitives import serialization

    client = authority.issue_client()
    key = serialization.load_pem_private_key(client.key.read_bytes(), None)
    encrypted = tmp_path / "encrypted.key"
    encrypted.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(ValueError, match="client certificate"):
        make_ssl_context(authority.ca_pem, client_cert=client.cert, client_key=encrypted)
