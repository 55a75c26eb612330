"""A node: what it knows (context, learned), how it decides (choice, trial), what it does (pin, wait, reconcile)."""
