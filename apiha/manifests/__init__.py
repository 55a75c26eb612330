"""The manifests: the Service `apiserver`, its updater, the least RBAC that nodes and updater need, the installer.

*.yaml        templates (string.Template); each value goes in as JSON, which is YAML
render.py     checks the values and fills the templates; tools/chart.py writes the Helm chart from the same ones
installer.py  the same for the installer's DaemonSet
judge.py      what the cluster's answers mean; pure
check.py      `apiha manifests --dry-run`: would they work in this cluster?
"""
