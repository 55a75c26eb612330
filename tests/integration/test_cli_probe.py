"""`apiha probe`: what it says about each address, in both forms, and its exit code."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from tests.support.cli import VIP, Cluster, Worker
from tests.support.probing import eventually


def test_table_of_all_addresses(joined: Worker, cluster: Cluster) -> None:
    """A row for each control plane and the VIP: state, HTTP status, latency, certificate expiry, why it failed."""
    cluster.planes[1].behaviour = "not_ready"
    cluster.planes[2].stop()
    lines = joined.run("probe").ok().stdout.splitlines()
    assert lines[0].split() == ["ADDRESS", "ROLE", "STATE", "HTTP", "LATENCY", "CERT", "EXPIRES", "WHY"]
    ready, not_ready, refused, vip = (line.split() for line in lines[1:])
    year = str(datetime.now(timezone.utc).year + 1)
    assert ready[:4] == [f"127.0.0.11:{cluster.port}", "control-plane", "ready", "200"]
    assert ready[4].endswith("ms")
    assert ready[5][:4] in (year, str(int(year) - 1))
    assert ready[6:] == []
    assert not_ready[2:4] == ["not-ready", "500"]
    assert " ".join(not_ready[6:]) == "HTTP 500: etcd failing"
    assert refused[2:4] == ["refused", "-"]
    assert " ".join(refused[5:]) == "- connection refused (nothing is listening)"
    assert vip[:3] == [f"{VIP}:{cluster.port}", "vip", "refused"]
    assert not [line for line in lines if line != line.rstrip()]


def test_json_of_all_addresses(joined: Worker, cluster: Cluster) -> None:
    """The same for programs: one object an address, times in RFC 3339, latency in seconds."""
    cluster.vip.start()
    cluster.planes[0].behaviour = "wrong_ca"
    cluster.planes[1].behaviour = "forbidden"
    answers = {answer["address"]: answer for answer in joined.run("probe", "--output", "json").ok().json()}
    assert list(answers) == ["127.0.0.11", "127.0.0.12", "127.0.0.13", VIP]
    keys = {
        *("address", "port", "role", "state", "http_status"),
        *("latency_seconds", "certificate_expires", "server_time", "why"),
    }
    for answer in answers.values():
        assert answer.keys() == keys
        assert answer["port"] == cluster.port
        assert 0 < answer["latency_seconds"] < 30
    assert answers["127.0.0.11"]["state"] == "untrusted"
    assert answers["127.0.0.11"]["http_status"] is None
    assert "not from the cluster's CA" in answers["127.0.0.11"]["why"]
    assert answers["127.0.0.12"]["state"] == "alive"
    assert answers["127.0.0.12"]["http_status"] == 403
    good = answers["127.0.0.13"]
    assert (good["role"], good["state"], good["http_status"]) == ("control-plane", "ready", 200)
    assert datetime.fromisoformat(good["certificate_expires"].replace("Z", "+00:00")) > datetime.now(
        timezone.utc
    )
    assert (
        abs(
            datetime.fromisoformat(good["server_time"].replace("Z", "+00:00")) - datetime.now(timezone.utc)
        ).total_seconds()
        < 60
    )
    assert answers[VIP]["role"] == "vip"


@pytest.mark.parametrize(
    ("behaviours", "code"),
    [
        (("ready", "stopped", "stopped"), 0),
        (("ready", "wrong_ca", "reset"), 0),
        (("stopped", "stopped", "stopped"), 3),
        (("not_ready", "stopped", "stopped"), 3),
        (("forbidden", "unauthorized", "forbidden"), 3),
        (("wrong_ca", "expired", "http10"), 3),
    ],
)
def test_exit_code(joined: Worker, cluster: Cluster, behaviours: tuple[str, ...], code: int) -> None:
    """0 if a control plane is ready, else 3; what the VIP says does not count."""
    cluster.behave(*behaviours)
    done = joined.run("probe")
    assert done.code == code, done
    assert len(done.stdout.splitlines()) == 5
    assert done.stderr == ""


def test_all_are_asked_at_once(joined: Worker, cluster: Cluster) -> None:
    """Four silent addresses take one time limit, not four, and none of them is left out."""
    for plane in cluster.planes:
        plane.behaviour = "silent"
    cluster.vip.start()
    answers = joined.run("--probe-timeout", "1s", "probe", "-o", "json").json()
    assert [answer["state"] for answer in answers] == ["timeout"] * 4
    assert eventually(lambda: all(plane.counters.connections for plane in cluster.planes))


def test_a_client_certificate_shows_readiness(joined: Worker, cluster: Cluster) -> None:
    """Where anonymous access is off, `client_cert` turns alive into ready, and the exit code into 0."""
    for plane in cluster.planes:
        plane.behaviour = "client_certificate"
    assert joined.run("probe").code == 3
    client = cluster.authority.issue_client()
    assert joined.run("--client-cert", str(client.cert), "--client-key", str(client.key), "probe").code == 0


def test_probing_writes_nothing(joined: Worker) -> None:
    """Neither the hosts file nor a state folder is touched."""
    joined.run("probe").ok()
    assert joined.untouched
    assert not joined.state.exists()
