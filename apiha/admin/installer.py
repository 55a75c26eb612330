"""What the installer's Pods say of their nodes, where `apiha manifests --installer` was applied. Pure.

A Pod has no way to the API. It says in its readiness whether its node is well, and its readiness probe prints why not:
kubelet makes an Event of that (`Readiness probe failed: REASON`, pkg/kubelet/prober). A container that does not run
says why in its state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from apiha.admin.objects import DaemonSet, Pod, PodEvent

LABEL = "app.kubernetes.io/name=apiha-installer"  # manifests/installer.yaml
REMOVE = "--remove"  # the installer uninstalls
# What kubelet puts before the output of a probe, and client-go before the message of a repeated Event
# (tools/record/events_cache.go).
_PREFIXES = ("(combined from similar events): ", "Readiness probe failed: ")
_SAYS_NOTHING = ("ContainerCreating", "PodInitializing")  # then the Pod's Events do


@dataclass(frozen=True)
class Installers:
    """The installer's DaemonSets, their Pods by node, and what the last Event of a Pod (namespace, name) says."""

    sets: tuple[DaemonSet, ...] = ()
    pods: Mapping[str, Pod] = field(default_factory=dict)
    events: Mapping[tuple[str, str], str] = field(default_factory=dict)

    @property
    def present(self) -> bool:
        """Whether there is an installer at all."""
        return bool(self.sets or self.pods)

    def of(self, node: str) -> Pod | None:
        """The Pod on this node."""
        return self.pods.get(node)

    def reason(self, pod: Pod) -> str:
        """Why this Pod is not ready; empty if it is."""
        if pod.ready:
            return ""
        if pod.trouble and not pod.trouble.startswith(_SAYS_NOTHING):
            return pod.trouble
        said = self.events.get((pod.namespace, pod.name))
        return (
            said or pod.trouble or f"not ready; its log says why: kubectl -n {pod.namespace} logs {pod.name}"
        )

    def removes(self, pod: Pod) -> bool:
        """Whether the installer uninstalls: a Pod is ready when nothing of apiha is left."""
        wanted = self._set_of(pod)
        return wanted is not None and REMOVE in wanted.arguments

    def problem(self, pod: Pod) -> str | None:
        """What is wrong with the node by its Pod; None if nothing is."""
        wanted = self._set_of(pod)
        if not pod.ready:
            return f"installer: {self.reason(pod)}"
        if wanted is not None and pod.version != wanted.version:
            return (
                f"installer is {pod.version or 'of unknown version'}, its DaemonSet wants "
                f"{wanted.version or 'another'}"
            )
        return None

    def warnings(self) -> list[str]:
        """What somebody should look at besides the nodes: Pods that are missing."""
        found = []
        for each in self.sets:
            there = sum(pod.namespace == each.namespace for pod in self.pods.values())
            if there < each.wanted:
                where = f"{each.namespace}/{each.name}"
                found.append(
                    f"the installer's DaemonSet {where} wants a Pod on {each.wanted} nodes, and {there} have one: "
                    f"`kubectl -n {each.namespace} describe daemonset {each.name}` says why"
                )
        return found

    def _set_of(self, pod: Pod) -> DaemonSet | None:
        return next((each for each in self.sets if each.namespace == pod.namespace), None)


def by_node(pods: Iterable[Pod]) -> dict[str, Pod]:
    """One Pod for each node: during a rollout, the one that stays before the one that leaves, then a ready one."""
    found: dict[str, Pod] = {}
    for pod in pods:
        held = found.get(pod.node)
        if held is None or (not pod.leaving, pod.ready) > (not held.leaving, held.ready):
            found[pod.node] = pod
    return found


def last_words(events: Iterable[PodEvent]) -> dict[tuple[str, str], str]:
    """What the newest Event of each Pod says, by namespace and name."""
    newest: dict[tuple[str, str], PodEvent] = {}
    for event in events:
        key = (event.namespace, event.pod)
        if key not in newest or event.at > newest[key].at:
            newest[key] = event
    return {key: _stripped(event.message) for key, event in newest.items()}


def _stripped(message: str) -> str:
    for prefix in _PREFIXES:
        message = message.removeprefix(prefix)
    return message
