"""Fail fast: the kernel tells this node's clients at once that a control plane is silent, by one nftables table.

`rules` makes the table's text and `table` reads the kernel's description of it (both pure); `kernel` loads, reads and
removes it with the program `nft`. docs/fail-fast.md explains the breaker.
"""
