"""Rules and dashboards say what they mean: Prometheus' own tool reads and tries the rules, a parser reads every query."""

import copy
import subprocess
from pathlib import Path

import monitoring
import promql_parser
import pytest
import rendering
import yaml

TESTS = Path(__file__).with_name("rules_test.yaml")


def promtool(*arguments):
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def work(tmp_path):
    (tmp_path / "rules_test.yaml").write_text(TESTS.read_text())
    # The tests hold labels; what is said to people is read by `promtool check`.
    bare = copy.deepcopy(monitoring.rules())
    for group in bare["groups"]:
        for rule in group["rules"]:
            rule.pop("annotations", None)
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(bare))
    return tmp_path


def test_prometheus_takes_the_rules(tmp_path):
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(monitoring.rules()))
    status, said = promtool("check", "rules", "--lint=all", "--lint-fatal", file)
    assert status == 0, said
    worse = monitoring.rules()["groups"][0]["rules"][0] | {"expr": "sum(rate(mainstay_requests_total))"}
    file.write_text(yaml.safe_dump({"groups": [{"name": "worse", "rules": [worse]}]}))
    assert promtool("check", "rules", file)[0] != 0


def test_alerts_fire_when_they_should_and_not_when_they_should_not(work):
    status, said = promtool("test", "rules", work / "rules_test.yaml")
    assert status == 0, said


def test_an_alert_that_no_longer_fires_is_found(work):
    text = (work / "rules.yaml").read_text()
    assert "> 300" in text
    (work / "rules.yaml").write_text(text.replace("> 300", "> 300000000"))
    status, said = promtool("test", "rules", work / "rules_test.yaml")
    assert status != 0 and "MainstaySyncStale" in said


def test_each_alert_is_seen_to_fire_and_says_what_to_do():
    alerts = {rule["alert"]: rule for group in monitoring.rules()["groups"] for rule in group["rules"] if "alert" in rule}
    fired = {
        case["alertname"]
        for test in yaml.safe_load(TESTS.read_text())["tests"]
        for case in test.get("alert_rule_test", [])
        if case["exp_alerts"]
    }
    assert fired == set(alerts)
    for name, alert in alerts.items():
        assert alert["labels"]["severity"] in ("page", "ticket"), name
        assert alert["annotations"]["summary"] and alert["annotations"]["description"], name


def test_each_query_can_be_parsed():
    found = list(monitoring.queries())
    assert len(found) > 60
    for where, query in found:
        try:
            promql_parser.parse(query)
        except ValueError as error:
            pytest.fail(f"{where}: {query}: {error}")
    with pytest.raises(ValueError):
        promql_parser.parse("sum(rate(mainstay_rows_total[5m])")


def test_panels_lie_beside_each_other_and_say_what_they_show():
    for name, dashboard in monitoring.dashboards().items():
        taken = set()
        assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"]), name
        for panel in dashboard["panels"]:
            place = panel["gridPos"]
            assert place["x"] + place["w"] <= 24, f"{name}: {panel['title']}"
            cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
            assert not cells & taken, f"{name}: {panel['title']} lies over another"
            taken |= cells
            if panel["type"] != "row":
                assert panel["description"] and panel["targets"] and panel["datasource"]["uid"] == "${datasource}", f"{name}: {panel['title']}"


def test_dashboards_come_as_grafana_s_sidecar_takes_them():
    config = next(one for one in rendering.rendered()["overlays/eks/prod"] if one["metadata"]["name"] == "mainstay-dashboards")
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert set(config["data"]) == set(monitoring.dashboards())
    # A ConfigMap holds 1 MiB, and kubectl apply keeps a copy of it in an annotation of at most 256 KiB.
    assert sum(map(len, config["data"].values())) < 200_000
    assert len({dashboard["uid"] for dashboard in monitoring.dashboards().values()}) == len(config["data"])


def test_the_autoscaler_s_metric_is_the_one_that_the_adapter_makes():
    adapter = yaml.safe_load((rendering.SOURCES / "components/autoscaling/adapter-values.yaml").read_text())
    made = {rule["name"]["as"] for rule in adapter["rules"]["custom"]}
    scaler = next(one for one in rendering.rendered()["overlays/eks/prod"] if one["kind"] == "HorizontalPodAutoscaler")
    asked = {metric["pods"]["metric"]["name"] for metric in scaler["spec"]["metrics"] if metric["type"] == "Pods"}
    assert asked == made
