"""The manifests of the cluster side: the Service `apiserver`, its updater, and the least RBAC both sides need.

*.yaml      templates (string.Template); each value goes in as JSON, which is YAML
render.py   checks the values and fills the templates
kubectl.py  the cluster, asked through kubectl
judge.py    what the cluster's answers mean; pure
check.py    `apiha manifests --dry-run`: would they work in this cluster?
"""
