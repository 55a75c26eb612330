"""`apiha user-data`: what a machine that is still to come needs to join the cluster, as its first boot reads it.

`cluster` asks the cluster (through kubectl), `token` makes a token to join with, `pins` says how kubeadm recognises the
CA, `pieces` has every file and command, and `formats` writes them as cloud-init, Ignition or Butane read them.
"""
