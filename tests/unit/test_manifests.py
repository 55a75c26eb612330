"""The manifests: every input gives YAML that says just that, or one line that says what is wrong."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from apiha.errors import ConfigError
from apiha.manifests.render import (
    TEMPLATES,
    Values,
    checked_values,
    kustomization,
    one_stream,
    render,
    write_base,
)

IMAGE = "registry.example.com:5000/apiha/apiha:1.2.3"
HOST = "apiserver.cluster.local"


def values(*vips: str, image: str = IMAGE, namespace: str = "kube-system") -> Values:
    return checked_values(image, vips or ("10.96.0.100",), namespace, HOST, 6443)


def values_or_refusal(
    vips: Sequence[str] = ("10.96.0.100",), image: str = IMAGE, namespace: str = "kube-system"
) -> Values | str:
    try:
        return checked_values(image, vips, namespace, HOST, 6443)
    except ConfigError as error:
        return str(error)


def documents(wanted: Values) -> list[dict[str, Any]]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return list(yaml.load_all(one_stream(render(wanted).values()), Loader=loader))


def is_one_line_about(refusal: str, flag: str) -> bool:
    return refusal.startswith(f"{flag}: ") and len(refusal.splitlines()) == 1


def only(kind: str, wanted: Values) -> dict[str, Any]:
    (found,) = [document for document in documents(wanted) if document["kind"] == kind]
    return found


def usable(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    mapped = isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None
    broadcast = str(address) == "255.255.255.255"
    odd = address.is_unspecified or address.is_multicast or address.is_loopback or address.is_link_local
    return not (odd or mapped or broadcast)


IPV4 = st.ip_addresses(v=4).filter(usable)
IPV6 = st.ip_addresses(v=6).filter(usable)
VIPS = st.one_of(
    st.tuples(IPV4), st.tuples(IPV6), st.tuples(IPV4, IPV6), st.tuples(IPV6, IPV4)
)  # one of a family


@given(VIPS)
def test_any_addresses_make_a_service_with_just_these(
    vips: tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, ...],
) -> None:
    """The Service asks for the VIPs in their order, with their families, and each family has its slice."""
    texts = [str(vip) for vip in vips]
    families = [f"IPv{vip.version}" for vip in vips]
    wanted = values(*texts)
    spec = only("Service", wanted)["spec"]
    assert (spec["clusterIP"], spec["clusterIPs"], spec["ipFamilies"]) == (texts[0], texts, families)
    assert spec["ipFamilyPolicy"] == ("RequireDualStack" if len(vips) == 2 else "SingleStack")
    slices = [document for document in documents(wanted) if document["kind"] == "EndpointSlice"]
    names = {"IPv4": "apiserver", "IPv6": "apiserver-ipv6"}
    assert {item["addressType"]: item["metadata"]["name"] for item in slices} == {
        f: names[f] for f in families
    }
    (container,) = only("Deployment", wanted)["spec"]["template"]["spec"]["containers"]
    assert [a for a in container["args"] if a.startswith("--vip=")] == [f"--vip={text}" for text in texts]


@given(st.lists(st.one_of(st.text(max_size=20), st.ip_addresses().map(str)), max_size=4))
def test_any_texts_for_the_vip_give_manifests_or_one_line(vips: list[str]) -> None:
    """Whatever stands for --vip, it is taken as canonical addresses or refused with one line that names the flag."""
    wanted = values_or_refusal(vips=vips)
    if isinstance(wanted, str):
        assert is_one_line_about(wanted, "--vip")
    else:
        canonical = [str(ipaddress.ip_address(vip)) for vip in wanted.vips]
        assert only("Service", wanted)["spec"]["clusterIPs"] == canonical


@given(st.text(max_size=70) | st.from_regex(r"[a-z0-9]([-a-z0-9]{0,10}[a-z0-9])?", fullmatch=True))
def test_any_text_for_the_namespace_is_itself_in_yaml_or_refused(namespace: str) -> None:
    """A namespace called `y`, `1e3` or `null` stays a text; what is no name is refused with one line."""
    wanted = values_or_refusal(namespace=namespace)
    if isinstance(wanted, str):
        assert is_one_line_about(wanted, "--namespace")
        return
    places = {document["metadata"].get("namespace") for document in documents(wanted)}
    assert places == {namespace, "default", "kube-system", None}  # a policy is in no namespace
    # In quotes: to other readers of YAML than this one `y` is a truth value.
    assert f'namespace: "{namespace}"' in one_stream(render(wanted).values())


@given(st.text(max_size=80) | st.from_regex(r"[a-z0-9./:@_-]{1,60}", fullmatch=True))
def test_any_text_for_the_image_is_itself_in_yaml_or_refused(image: str) -> None:
    """No image can write anything but itself into the manifests."""
    wanted = values_or_refusal(image=image)
    if isinstance(wanted, str):
        assert is_one_line_about(wanted, "--image")
        return
    expected = documents(values(image="x"))
    expected[-1]["spec"]["template"]["spec"]["containers"][0]["image"] = image
    assert documents(wanted) == expected


@pytest.mark.parametrize(
    "image",
    [
        "apiha",
        "apiha:1.2.3",
        "localhost:5000/apiha",
        "[fd00::1]:5000/apiha",
        "registry.example.com/team/apiha__x/a-b--c:v1.0_2",
        "registry.example.com/apiha@sha256:" + "0" * 64,
        "registry.example.com/apiha:1.2.3@sha256:" + "0" * 64,
    ],
)
def test_image_references_are_taken(image: str) -> None:
    """What container engines take as an image is taken here."""
    assert values(image=image).image == image


@pytest.mark.parametrize(
    "image",
    ["", "Apiha", "apiha:", "apiha:a b", "apiha\n", "-apiha", "apiha@sha256:12", "/apiha", "a//b", "a" * 256],
)
def test_what_is_no_image_reference_is_refused(image: str) -> None:
    """An image that no node could pull is refused here rather than by every kubelet."""
    with pytest.raises(ConfigError, match="--image"):
        values(image=image)


@pytest.mark.parametrize(
    ("vips", "says"),
    [
        (["api.example.com"], "not an IPv4 or IPv6 address"),
        (["10.96.0.100", "10.96.0.101"], "one address of each family"),
        (["10.96.0.100", "10.96.0.100"], "one address of each family"),
        (["fd00::1", "fd00::2"], "one address of each family"),
        (["10.96.0.100,fd00::1", "fd00::2"], "one address of each family"),
        (["127.0.0.1"], "another machine on every node"),
        (["fe80::1"], "another machine on every node"),
        (["::ffff:10.96.0.100"], "expected 10.96.0.100"),
        (["0.0.0.0"], "not an address"),
        (["10.96.0.100/32"], "not an IPv4 or IPv6 address"),
        ([], "not set"),
        ([""], "not set"),
    ],
)
def test_wrong_vips_are_refused_in_words(vips: list[str], says: str) -> None:
    """Each kind of wrong VIP gets its own words."""
    with pytest.raises(ConfigError, match=says):
        checked_values(IMAGE, vips, "kube-system", HOST, 6443)


def test_both_ways_to_give_two_vips_are_the_same() -> None:
    """--vip twice, or once with a comma."""
    assert values("10.96.0.100", "fd00::64") == values("10.96.0.100, FD00::0:64")


def test_same_values_give_the_same_bytes() -> None:
    """The output depends on nothing but the values."""
    assert render(values()) == render(values())


def test_no_two_objects_have_one_name() -> None:
    """Not even where the updater's own namespace is the one that holds `kubernetes`."""
    for namespace in ("kube-system", "default"):
        names = [
            (item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"])
            for item in documents(values("10.96.0.100", "fd00::1", namespace=namespace))
        ]
        assert len(names) == len(set(names))


def test_pods_belong_to_the_budget_the_spread_and_the_deployment() -> None:
    """All selectors match the labels of the Pods."""
    deployment = only("Deployment", values())["spec"]
    labels = deployment["template"]["metadata"]["labels"].items()
    (spread,) = deployment["template"]["spec"]["topologySpreadConstraints"]
    budget = only("PodDisruptionBudget", values())["spec"]
    for selector in (deployment["selector"], spread["labelSelector"], budget["selector"]):
        assert selector["matchLabels"].items() <= labels


def test_no_right_is_given_to_change_what_is_not_ours() -> None:
    """Every right to change an object names the object; no right has a wildcard, none reaches Secrets or Pods."""
    for role in [document for document in documents(values()) if document["kind"] == "Role"]:
        for rule in role["rules"]:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
            assert set(rule["resources"]) <= {"endpointslices", "services", "leases", "events", "namespaces"}
            if "namespaces" in rule["resources"]:
                assert (rule["verbs"], rule["resourceNames"]) == (["get"], ["kube-system"])
            if set(rule["verbs"]) & {"create", "patch", "update", "delete"} and rule["resources"] != [
                "events"
            ]:
                assert rule["resourceNames"]
    assert not [document for document in documents(values()) if document["kind"].startswith("Cluster")]


def test_the_base_lists_every_file(tmp_path: Path) -> None:
    """kustomization.yaml names each manifest once, in the order of application, and writing again changes nothing."""
    files = render(values())
    paths = write_base(tmp_path / "base", files)
    before = {path.name: path.read_bytes() for path in paths}
    assert yaml.safe_load(before["kustomization.yaml"])["resources"] == list(TEMPLATES)
    assert set(before) == {*TEMPLATES, "kustomization.yaml"}
    write_base(tmp_path / "base", files)
    assert {path.name: path.read_bytes() for path in paths} == before


def test_somebody_elses_kustomization_is_kept(tmp_path: Path) -> None:
    """A folder that holds another kustomization is left as it is."""
    (tmp_path / "kustomization.yaml").write_text("resources: [mine.yaml]\n")
    with pytest.raises(ConfigError, match=r"kustomization\.yaml was not written by apiha"):
        write_base(tmp_path, render(values()))
    assert [path.name for path in tmp_path.iterdir()] == ["kustomization.yaml"]


def test_a_base_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """A file in the way of the folder is named."""
    (tmp_path / "base").write_text("")
    with pytest.raises(ConfigError, match=r"--output-dir: cannot write .*base: "):
        write_base(tmp_path / "base", render(values()))


def test_the_kustomization_is_yaml() -> None:
    """It parses, comment and all."""
    assert yaml.safe_load(kustomization(["a.yaml"]))["resources"] == ["a.yaml"]


def test_a_folder_with_somebody_elses_manifest_is_left_as_it_is(tmp_path: Path) -> None:
    """A deployment.yaml beside no kustomization.yaml of ours is not overwritten; other files are no hindrance."""
    (tmp_path / "README").write_text("mine")
    (tmp_path / "deployment.yaml").write_text("mine")
    with pytest.raises(ConfigError, match=r"deployment\.yaml was not written by apiha"):
        write_base(tmp_path, render(values()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README", "deployment.yaml"]
    assert (tmp_path / "deployment.yaml").read_text() == "mine"
    (tmp_path / "deployment.yaml").unlink()
    write_base(tmp_path, render(values()))


def test_installations_in_two_namespaces_share_no_object() -> None:
    """Neither can take the other's rights away, by being applied or by being deleted; names stay within 253."""

    def keys(namespace: str) -> set[tuple[str, str | None, str]]:
        found = documents(values(namespace=namespace))
        return {(d["kind"], d["metadata"].get("namespace"), d["metadata"]["name"]) for d in found}

    longest = "n" * 63
    assert not keys("kube-system") & keys(longest)
    assert max(len(name) for _, _, name in keys(longest)) <= 253


@pytest.mark.parametrize("namespace", ["infra", "default", "kube-system", "kube-public"])
def test_the_namespace_is_made_only_when_asked_for(namespace: str) -> None:
    """With the flag it comes first, so that one `kubectl apply` does; what every cluster has is never in there."""
    assert not [d for d in documents(values(namespace=namespace)) if d["kind"] == "Namespace"]
    wanted = checked_values(IMAGE, ["10.96.0.100"], namespace, HOST, 6443, create_namespace=True)
    found = [(d["kind"], d["metadata"]["name"]) for d in documents(wanted)]
    assert [item for item in found if item[0] == "Namespace"] == (
        [("Namespace", "infra")] if namespace == "infra" else []
    )
    if namespace == "infra":
        assert found[0] == ("Namespace", "infra")


def test_the_pods_keep_away_from_control_planes_but_may_run_there() -> None:
    """Losing a control plane should not mean losing the leader; a cluster of control planes only gets both."""
    spec = only("Deployment", values())["spec"]["template"]["spec"]
    assert list(spec["affinity"]) == ["nodeAffinity"]
    ((policy, (wish,)),) = spec["affinity"]["nodeAffinity"].items()
    assert policy == "preferredDuringSchedulingIgnoredDuringExecution"
    key = "node-role.kubernetes.io/control-plane"
    assert wish["preference"]["matchExpressions"] == [{"key": key, "operator": "DoesNotExist"}]
    assert {"key": key, "operator": "Exists", "effect": "NoSchedule"} in spec["tolerations"]


def test_the_pod_knows_its_name() -> None:
    """The updater's name in the Lease begins with it."""
    (container,) = only("Deployment", values())["spec"]["template"]["spec"]["containers"]
    name = {"name": "POD_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}
    assert container["env"] == [name]
