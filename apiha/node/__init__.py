"""The phases of a node: pin, wait for the VIP, swap, reconcile; and what a node knows and decides."""
