"""Writes the templates of the Helm chart: those of `apiha manifests`, with Helm's expressions for the values.

    python -m tools.chart            # write deploy/helm/apiha/templates
    python -m tools.chart --check    # exit code 1 if that would change anything

So the chart cannot drift from `apiha manifests`; tests/e2e/test_chart.py has Helm render it and compares the objects.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from string import Template

from apiha import __version__
from apiha.manifests.installer import DAEMON_SET, NETWORK_POLICY
from apiha.manifests.render import CONSTANTS, EXTRAS, SLICES, TEMPLATES, of_family

REPOSITORY = Path(__file__).resolve().parents[1]
CHART = REPOSITORY / "deploy/helm/apiha"
HEADER = (
    "{{- /* Written by tools/chart.py from apiha/manifests/%s: change that, then run `make chart`. */ -}}\n"
)


def _of_release(text: str) -> str:
    """A text with the release's namespace for its `%s`, as JSON."""
    return f"{{{{ printf {json.dumps(text)} .Release.Namespace | toJson }}}}"


# What stands for each value of apiha/manifests/render.py and installer.py; functions are in templates/_helpers.tpl.
EXPRESSIONS = {
    "namespace": "{{ .Release.Namespace | toJson }}",
    "source_role": _of_release("apiserver-updater-source-%s"),
    "nodes_role": _of_release("apiha-nodes-%s"),
    "policy": _of_release("apiserver-updater-%s"),
    "by_updater": _of_release('request.userInfo.username == "system:serviceaccount:%s:apiserver-updater"'),
    "image": "{{ .Values.image | toJson }}",
    "cluster_ip": "{{ first .Values.vips | toJson }}",
    "cluster_ips": "{{ .Values.vips | toJson }}",
    "ip_families": '{{ include "apiha.families" . }}',
    "ip_family_policy": '{{ ternary "RequireDualStack" "SingleStack" (gt (len .Values.vips) 1) | toJson }}',
    "port": "{{ .Values.port | int }}",
    "args": '{{ include "apiha.updaterArguments" . }}',
    "api_server_ports": '{{ include "apiha.apiServerPorts" . }}',
    "dashboard": '{{ .Files.Get "files/apiha.json" | toJson }}',
    "node_selector": '{{ merge (dict) .Values.installer.nodeSelector (dict "kubernetes.io/os" "linux") | toJson }}',
    "tolerations": "{{ .Values.installer.tolerations | toJson }}",
    "max_unavailable": "{{ .Values.installer.maxUnavailable | toJson }}",
    "installer_args": '{{ include "apiha.installerArguments" . }}',
    **{key: json.dumps(value) for key, value in CONSTANTS.items()},
}
# The value that an optional file depends on.
CONDITIONS = {
    EXTRAS["pod_monitor"]: ".Values.podMonitor.enabled",
    EXTRAS["network_policy"]: ".Values.networkPolicy.enabled",
    EXTRAS["dashboard"]: ".Values.dashboard.enabled",
    DAEMON_SET: ".Values.installer.enabled",
    NETWORK_POLICY: "and .Values.installer.enabled .Values.networkPolicy.enabled",
}


def templates() -> Iterator[tuple[str, str]]:
    """Each file of the chart's templates: its name, its text."""
    folder = resources.files("apiha.manifests")
    for name in (*TEMPLATES, *CONDITIONS):
        template = Template(folder.joinpath(name).read_text(encoding="utf-8"))
        if name == SLICES:
            text = "".join(
                f'{{{{- if contains "{family}" (include "apiha.families" .) }}}}\n---\n'
                + template.substitute({**EXPRESSIONS, **_quoted(of_family(family))})
                + "{{- end }}\n"
                for family in ("IPv4", "IPv6")
            )
        else:
            text = template.substitute(EXPRESSIONS)
        if name in CONDITIONS:
            text = f"{{{{- if {CONDITIONS[name]} }}}}\n{text}{{{{- end }}}}\n"
        yield name, HEADER % name + text


def _quoted(fields: dict[str, object]) -> dict[str, str]:
    return {key: json.dumps(value) for key, value in fields.items()}


def metadata() -> str:
    """Chart.yaml: the chart has the version of apiha."""
    return f"""\
apiVersion: v2
name: apiha
description: The Service apiserver and its updater, so that workers need no load balancer; the installer
type: application
version: {__version__}
appVersion: {__version__}
# ValidatingAdmissionPolicy is in v1 since then.
kubeVersion: ">= 1.30.0-0"
home: https://github.com/apiha/apiha
sources:
  - https://github.com/apiha/apiha
keywords: [kubernetes, high availability, kube-apiserver, load balancer]
"""


def main(arguments: list[str]) -> int:
    """Write what differs, or only say so."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit code 1 if something differs"
    )
    options = parser.parse_args(arguments)
    wanted = {CHART / "templates" / name: text for name, text in templates()}
    wanted[CHART / "Chart.yaml"] = metadata()
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    stale += [path for path in (CHART / "templates").glob("*.yaml") if path not in wanted]
    for path in sorted(stale):
        print(path.relative_to(REPOSITORY))
        if not options.check and path in wanted:
            path.write_text(wanted[path])
        elif not options.check:
            path.unlink()
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
