"""What Prometheus and Grafana are given fits what `/metrics` shows."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from reelwatch.rules.metrics import ALL, Kind, Metric
from reelwatch.rules.notices import NoticeType
from tests.servers import ServerMissing

DOCS = Path(__file__).parent.parent / "docs"
GRAFANA = DOCS / "grafana"
RULES = yaml.safe_load((GRAFANA / "alerts.yml").read_text())["groups"][0]["rules"]
DASHBOARD = json.loads((GRAFANA / "reelwatch.json").read_text())
RUNBOOK = (DOCS / "runbook.md").read_text()
SUFFIXES = {Kind.COUNTER: ("_total",), Kind.HISTOGRAM: ("_bucket", "_sum", "_count")}
SERIES = {
    f"{metric.name}{end}" for metric in ALL.values() for end in SUFFIXES.get(metric.kind, ("",))
}


def expressions() -> list[str]:
    of_panels = [each["expr"] for panel in DASHBOARD["panels"] for each in panel["targets"]]
    page = (DOCS / "metrics.md").read_text()
    return [
        *of_panels,
        *(rule["expr"] for rule in RULES),
        *re.findall(r"\| `(.*reelwatch_.*\))` \|", page),
    ]


def test_the_documented_table_is_the_table_of_metrics() -> None:
    lines = re.findall(r"^\| `(reelwatch_\w+)` \| (\w+) \| (.*?) \| (.+) \|$",
                       (DOCS / "metrics.md").read_text(), re.MULTILINE)  # fmt: skip

    def written(metric: Metric) -> tuple[str, str, str, str]:
        name = metric.name + ("_total" if metric.kind is Kind.COUNTER else "")
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        return name, metric.kind.value, labels, metric.help

    assert lines == [written(metric) for metric in ALL.values()]


@pytest.mark.parametrize("expression", expressions())
def test_only_series_that_exist_are_asked_for(expression: str) -> None:
    named = set(re.findall(r"reelwatch_\w+", expression))
    assert named
    assert named <= SERIES


def test_every_alert_has_a_line_in_the_runbook_and_a_test() -> None:
    tried = (GRAFANA / "alerts_test.yml").read_text()
    for rule in RULES:
        anchor = rule["annotations"]["runbook"].removeprefix("docs/runbook.md#")
        assert f'<a id="{anchor}"></a>{rule["alert"]} |' in RUNBOOK
        assert re.search(rf"alertname: {rule['alert']}\s+exp_alerts", tried), rule["alert"]


@pytest.mark.parametrize("kind", NoticeType)
def test_every_operator_event_is_documented(kind: NoticeType) -> None:
    table: Any = (DOCS / "operator-events.md").read_text()
    assert f"| `{kind.value}` |" in table
    reserved = kind is NoticeType.ARCHIVE_AT_RISK
    assert reserved or f"`{kind.value}`" in RUNBOOK


def test_the_alert_rules_do_as_they_say() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        raise ServerMissing("promtool (Debian package prometheus)")
    for command in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]):
        done = subprocess.run(
            [promtool, *command], cwd=GRAFANA, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
