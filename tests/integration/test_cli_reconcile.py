"""`apiha reconcile`: its three cases, that it is idempotent, and that it does not flap."""

from __future__ import annotations

import json

from apiha.hosts import BEGIN, END
from apiha.node.memory import FILE
from tests.support.cli import ORIGINAL, VIP, Cluster, Worker
from tests.support.control_plane import DEFAULT_HOST, ControlPlane

DEAD = ("127.0.0.99", 1)  # nothing listens there: the VIP resets the client


def slices(*addresses: str, port: int) -> list[dict[str, object]]:
    """The `kubernetes` EndpointSlice as the API servers write it."""
    return [
        {
            "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        }
    ]


def test_the_vip_answers(joined: Worker, cluster: Cluster) -> None:
    """Case one: VIP first, the control planes after; from no block, from a pinned one, and again without a write."""
    order = [plane.address for plane in cluster.in_order()]
    cluster.vip.start()
    joined.run("reconcile").ok()
    assert joined.addresses == [VIP, *order]
    before = joined.fingerprint()
    assert "nothing written" in joined.run("reconcile").ok().stderr
    assert joined.fingerprint() == before
    joined.run("pin-host").ok()
    joined.run("reconcile").ok()
    assert joined.addresses == [VIP, *order]


def test_the_vip_is_silent(joined: Worker, cluster: Cluster) -> None:
    """Case two: a live control plane first; from no block, from a swapped one, and again without a write."""
    order = [plane.address for plane in cluster.in_order()]
    joined.run("reconcile").ok()
    assert joined.addresses == [*order, VIP]
    before = joined.fingerprint()
    assert "nothing written" in joined.run("reconcile").ok().stderr
    assert joined.fingerprint() == before
    cluster.vip.start()
    joined.run("reconcile").ok()
    cluster.vip.stop()
    done = joined.run("reconcile").ok()
    assert joined.addresses == [*order, VIP]
    assert f"the VIP {VIP}:{cluster.port} does not answer" in done.stderr


def test_nothing_answers(joined: Worker, cluster: Cluster) -> None:
    """Case three: exit code 3, and the block as it is, whatever it says."""
    cluster.vip.start()
    states = [joined.fingerprint()]
    joined.run("pin-host").ok()
    states.append(joined.fingerprint())
    joined.run("reconcile").ok()
    states.append(joined.fingerprint())
    cluster.vip.stop()
    cluster.behave("stopped", "stopped", "stopped")
    for _, _, data in states:
        joined.hosts.write_bytes(data)
        before = joined.fingerprint()
        done = joined.run("reconcile")
        assert done.code == 3, done
        assert "nothing answers, the block stays as it is" in done.tells().stderr.splitlines()[-1]
        assert joined.fingerprint() == before


def test_the_first_of_the_block_is_dead(joined: Worker, cluster: Cluster) -> None:
    """The pinned control plane died: the next one takes its place, the dead one goes last."""
    joined.run("pin-host").ok()
    first, second, third = cluster.in_order()
    first.stop()
    joined.run("reconcile").ok()
    assert joined.addresses == [second.address, third.address, first.address, VIP]
    first.start()
    before = joined.fingerprint()
    joined.run("reconcile").ok()  # it is back, but what works is left alone
    assert joined.fingerprint() == before


def test_a_swapped_node_gives_the_vip_up_only_after_three_failures(joined: Worker, cluster: Cluster) -> None:
    """One dead control plane behind the VIP makes some connections fail: that is no reason to leave it."""
    good = (cluster.planes[0].address, cluster.port)
    cluster.vip.start()
    joined.run("reconcile").ok()
    before = joined.fingerprint()
    for targets in ([DEAD, good, good], [DEAD, DEAD, good]):
        cluster.vip.targets = [targets[(i - cluster.vip.connections) % 3] for i in range(3)]
        joined.run("reconcile").ok()
        assert joined.fingerprint() == before, targets
    cluster.vip.targets = [DEAD]
    joined.run("reconcile").ok()
    assert VIP not in joined.addresses[:-1]


def test_a_pinned_node_swaps_only_after_three_answers(joined: Worker, cluster: Cluster) -> None:
    """Two answers are not enough for a node that does without the VIP."""
    good = (cluster.planes[0].address, cluster.port)
    joined.run("pin-host").ok()
    before = joined.fingerprint()
    cluster.vip.targets = [good, good, DEAD]
    cluster.vip.start()
    joined.run("reconcile").ok()
    assert joined.fingerprint() == before
    assert cluster.vip.connections == 3
    cluster.vip.targets = [good]
    joined.run("reconcile").ok()
    assert joined.addresses[0] == VIP


def test_an_edited_block_is_put_right(joined: Worker, cluster: Cluster) -> None:
    """What somebody changed inside the block, its markers included, is put right, and lost lines are named."""
    joined.hosts.write_bytes(ORIGINAL + b"\n")
    joined.run("pin-host").ok()
    whole = joined.hosts.read_bytes()
    for damaged in (
        whole.replace(BEGIN + b"\n", BEGIN + b"\n10.9.9.9 printer\n"),
        whole.replace(f"\t{DEFAULT_HOST}\n".encode(), f"  {DEFAULT_HOST} # mine\n".encode()),
        whole[: whole.index(END)],
        whole + whole[whole.index(BEGIN) :],
        ORIGINAL + b"\n",
    ):
        joined.hosts.write_bytes(damaged)
        done = joined.run("reconcile").ok()
        assert joined.hosts.read_bytes() == whole, damaged
        if b"printer" in damaged:
            assert "dropped from the block" in done.stderr
            assert "10.9.9.9 printer" in done.stderr


def test_a_changed_configuration_takes_effect(joined: Worker, cluster: Cluster) -> None:
    """A new VIP, a control plane less, no fallbacks: the block follows."""
    cluster.vip.start()
    joined.run("reconcile").ok()
    first, second, third = cluster.in_order()
    joined.configure(cluster.settings, control_plane=[second.address, third.address])
    joined.run("reconcile").ok()
    assert joined.addresses == [VIP, second.address, third.address]
    joined.configure(cluster.settings, fallbacks=False)
    joined.run("reconcile").ok()
    assert joined.addresses == [VIP]
    joined.configure({key: value for key, value in cluster.settings.items() if key != "vip"})
    joined.run("reconcile").ok()
    assert joined.addresses == [first.address, second.address, third.address]


def test_without_control_planes(joined: Worker, cluster: Cluster) -> None:
    """A configuration with the VIP alone works as long as that answers, and names what is missing when not."""
    joined.configure({key: value for key, value in cluster.settings.items() if key != "control_plane"})
    cluster.vip.start()
    joined.run("reconcile").ok()
    assert joined.addresses == [VIP]
    before = joined.fingerprint()
    cluster.vip.stop()
    done = joined.run("reconcile")
    assert done.code == 5, done
    assert "control_plane: not set" in done.stderr.splitlines()[-1]
    assert joined.fingerprint() == before


# ------------------------------------------------------------------------------------------------- learning


def test_control_planes_are_learned_and_outlive_the_configured_ones(joined: Worker, cluster: Cluster) -> None:
    """After the swap the node knows the cluster's control planes; when all configured ones are gone, it pins to one
    that it learned.
    """
    client = cluster.authority.issue_client()
    joined.configure(cluster.settings, client_cert=str(client.cert), client_key=str(client.key))
    with ControlPlane(cluster.authority, "127.0.0.14", cluster.port) as newcomer:
        for plane in cluster.planes:
            plane.slices = slices(cluster.planes[0].address, newcomer.address, port=cluster.port)
        cluster.vip.start()
        done = joined.run("bootstrap").ok()
        assert (
            f"learned the control planes: 127.0.0.11:{cluster.port}, 127.0.0.14:{cluster.port}" in done.stderr
        )
        kept = json.loads((joined.state / FILE).read_text())
        assert [entry["address"] for entry in kept["control_planes"]] == ["127.0.0.11", "127.0.0.14"]

        assert joined.addresses[0] == VIP
        assert set(joined.addresses[1:]) == {"127.0.0.11", "127.0.0.12", "127.0.0.13", "127.0.0.14"}
        before, state = joined.fingerprint(), (joined.state / FILE).stat()
        joined.run("reconcile").ok()
        assert joined.fingerprint() == before
        assert (joined.state / FILE).stat().st_mtime_ns == state.st_mtime_ns

        cluster.vip.stop()
        cluster.behave("stopped", "stopped", "stopped")
        for command in ("pin-host", "reconcile"):
            joined.run("unpin").ok()
            joined.run(command).ok()
            assert joined.addresses[0] == newcomer.address
        answers = joined.run("probe", "-o", "json").ok().json()
        assert "127.0.0.14" in [answer["address"] for answer in answers]


def test_learning_is_never_in_the_way(joined: Worker, cluster: Cluster) -> None:
    """Forbidden, nonsense, or a damaged file of an earlier run: the pass succeeds all the same."""
    client = cluster.authority.issue_client()
    joined.configure(cluster.settings, client_cert=str(client.cert), client_key=str(client.key))
    joined.state.mkdir()
    for damaged in ("{", '{"control_planes": [{"address": "x", "port": 1}]}'):
        (joined.state / FILE).write_text(damaged)
        joined.run("reconcile").ok()
        assert len(joined.addresses) == 4
    for plane in cluster.planes:
        plane.slices = [{"metadata": {"name": "kubernetes"}, "endpoints": [{"addresses": ["not an ip"]}]}]
    assert "apiha: debug: control planes not learned" in joined.run("-v", "reconcile").ok().stderr
    for plane in cluster.planes:
        plane.slices = slices(
            port=cluster.port
        )  # a Service without addresses says nothing about control planes
    joined.run("reconcile").ok()
    assert len(joined.addresses) == 4
