"""What the tests stand on: network namespaces and real Kubernetes control planes."""
