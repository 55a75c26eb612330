"""What the objects of the cluster side are called."""

from __future__ import annotations

from apiha.names import SERVICE, lease_name, slice_name, slice_names


def test_the_names_of_the_default_service_are_those_of_the_first_release() -> None:
    """A cluster that has them keeps them."""
    assert slice_names(SERVICE) == {"apiserver": "IPv4", "apiserver-ipv6": "IPv6"}
    assert slice_name(SERVICE, "IPv6") == "apiserver-ipv6"
    assert lease_name(SERVICE) == "apiserver-updater"


def test_no_two_services_share_a_name() -> None:
    """Each Service has slices and a Lease of its own."""
    assert lease_name("one") != lease_name("two")
    assert not slice_names("one").keys() & slice_names("two").keys()
