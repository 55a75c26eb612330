"""The alert rules do what the documentation says, as Prometheus itself evaluates them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"
RULES, TESTS = DEPLOY / "apiha-rules.yaml", DEPLOY / "apiha-rules-test.yaml"
NODE_TESTS = DEPLOY / "apiha-node-rules-test.yaml"  # run by tests/unit/test_node_metrics.py

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool: apt-get install prometheus"
)


@needs_promtool
@pytest.mark.parametrize("command", [["check", "rules", RULES.name], ["test", "rules", TESTS.name]])
def test_promtool_accepts_the_rules_and_their_tests_pass(command: list[str]) -> None:
    """Each alert fires for what it is for: a lost machine, no leader, a stale sync, a problem."""
    done = subprocess.run(["promtool", *command], cwd=DEPLOY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    """An alert that is never seen to fire is a hope."""
    alerts = {
        rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
    }
    tests = [test for file in (TESTS, NODE_TESTS) for test in yaml.safe_load(file.read_text())["tests"]]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == alerts
    quiet = {case["alertname"] for case in cases if not case["exp_alerts"]}
    assert quiet >= alerts - {"ApihaProblem"}


def test_the_rules_use_metrics_that_the_updater_exports() -> None:
    """A misspelt metric would be an alert that never fires, or `absent` for ever."""
    pytest.importorskip("prometheus_client", reason="needs the extra: pip install 'apiha[updater]'")
    from apiha.updater.metrics import Metrics

    exported = {family.name for family in Metrics().registry.collect()}
    expressions = [
        rule["expr"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
    ]
    used = {name for expression in expressions for name in re.findall(r"apiha_updater_\w+", expression)}
    assert used
    assert used <= exported


@needs_promtool
def test_promtool_reads_every_query_of_the_dashboard(tmp_path: Path) -> None:
    """With Grafana's variables filled in, each is valid PromQL."""
    document = json.loads((DEPLOY.parent / "grafana/apiha.json").read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in document["panels"] for target in panel.get("targets", [])]
    queries += [entry["expr"] for entry in document["annotations"]["list"]]
    variables = {"$__rate_interval": "1m", "$__range": "6h", "$namespace": ".*"}
    rules = []
    for number, query in enumerate(queries):
        filled = re.sub(r"\$\w+", lambda found: variables[found.group()], query)
        rules.append({"record": f"query:{number}", "expr": filled})
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
