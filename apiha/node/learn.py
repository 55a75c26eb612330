"""Learning: remember which control planes an API server names, and which cluster it belongs to."""

from __future__ import annotations

from dataclasses import replace

from apiha.endpoint import Endpoint
from apiha.errors import ConfigError, NoControlPlane
from apiha.node.context import Node
from apiha.node.learned import NotLearned, Refused, fetch_cluster_uid, fetch_control_planes, fetch_drained
from apiha.node.memory import FILE, Cluster, Memory
from apiha.probe import Prober
from apiha.trust import fingerprint, load_ca


class OtherCluster(NoControlPlane):
    """A genuine API server, by its certificate, but of another cluster that shares the CA."""


def learn(node: Node, endpoint: Endpoint) -> None:
    """Remember the control planes that the API server at `endpoint` names.

    Errors are only logged, since the block matters more, all but one: raises OtherCluster if the API server belongs to
    another cluster than the one that this node remembers. Takes at most four times `learned.REQUEST_TIMEOUT`.
    """
    try:
        with node.make_node_prober(node.config) as identified:
            before = node.remembered()
            seen = Cluster(fetch_cluster_uid(identified, endpoint), _fingerprint(node))
            known = _recognised(node, endpoint, before, seen)
            found = fetch_control_planes(identified, endpoint)
            drained = _drained(node, identified, endpoint)
        new = known.told(found, node.clock.now())
        new = new if drained is None else replace(new, drained=drained)
        if new.worth_saving(before):
            added = [endpoint for endpoint in new.endpoints if endpoint not in before.endpoints]
            _keep(node, new)
            if added:
                node.report.info(f"learned the control planes: {', '.join(map(str, sorted(found)))}")
    except OtherCluster:
        raise
    except Refused as error:
        node.warn_once(f"control planes not learned: {error}")
    except (ConfigError, NotLearned, OSError) as error:
        node.report.debug(f"control planes not learned: {error}")
    except Exception as error:  # a stranger's bytes; whatever it is, the block matters more
        node.warn_once(f"control planes not learned: {type(error).__name__}: {error}")


def _keep(node: Node, new: Memory) -> None:
    """Keep it for the next boot too; a disk that does not take it is told."""
    try:
        node.remember(new)
    except OSError as error:
        node.warn_once(
            f"control planes not kept in {node.state_dir}: {error.strerror}; the next boot will not know them"
        )


def _recognised(node: Node, endpoint: Endpoint, before: Memory, seen: Cluster) -> Memory:
    """What of the memory holds for the cluster that was seen; raises OtherCluster."""
    if seen.moved(before.cluster):  # the administrator gave this node another CA
        if before.cluster.differs(seen) or None in (seen.uid, before.cluster.uid):
            return Memory(cluster=seen)
    elif seen.differs(before.cluster):
        raise OtherCluster(
            f"{endpoint} is an API server of another cluster with the same CA: the UID of its namespace kube-system is "
            f"{seen.uid}, this node's cluster has {before.cluster.uid}; to move this node to that cluster, remove "
            f"{node.state_dir / FILE}"
        )
    kept = Cluster(seen.uid or before.cluster.uid, seen.ca or before.cluster.ca)
    return replace(before, cluster=kept, damage=None)


def _drained(node: Node, identified: Prober, endpoint: Endpoint) -> frozenset[str] | None:
    """The drained control planes; None if that cannot be learned, which is no reason to learn nothing else."""
    if node.config.vip is None:
        return None
    try:
        return fetch_drained(identified, endpoint, node.config.vip)
    except NotLearned as error:
        node.report.debug(f"drained control planes not learned: {error}")
        return None


def _fingerprint(node: Node) -> str | None:
    return None if node.config.insecure_skip_tls_verify else fingerprint(load_ca(node.config).pem)
