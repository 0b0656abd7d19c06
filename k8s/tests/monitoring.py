"""What Prometheus and Grafana are told: rules, dashboards and scalers, and which metrics they name."""

import json
import re

import rendering
import yaml

# What Grafana puts into a query, and Prometheus' adapter into its own.
VARIABLES = {
    "$__rate_interval": "5m",
    "$__interval": "1m",
    "$namespace": "mainstay-prod",
    "$model": ".*",
    "<<.Series>>": "mainstay_requests_total",
    "<<.LabelMatchers>>": 'namespace="mainstay-prod"',
    "<<.GroupBy>>": "pod",
}


def rules():
    """The spec of the PrometheusRule."""
    return next(one for one in rendering.rendered()["overlays/eks/prod"] if one["kind"] == "PrometheusRule")["spec"]


def dashboards():
    folder = rendering.SOURCES / "components/monitoring/dashboards"
    return {file.name: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}


def filled(query):
    for variable, value in VARIABLES.items():
        query = query.replace(variable, value)
    return query


def queries():
    """Every PromQL expression that is shipped, by where it stands."""
    for group in rules()["groups"]:
        for rule in group["rules"]:
            yield f"rule {rule.get('alert') or rule['record']}", rule["expr"]
    for name, dashboard in dashboards().items():
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                yield f"{name}: {panel['title']}", filled(target["expr"])
        for annotation in dashboard["annotations"]["list"]:
            yield f"{name}: annotation {annotation['name']}", filled(annotation["expr"])
        for variable in dashboard["templating"]["list"]:
            # label_values(SELECTOR, label)
            if variable["type"] == "query":
                yield f"{name}: variable {variable['name']}", filled(re.match(r"label_values\((.+), \w+\)$", variable["query"]["query"])[1])
    scaler = next(one for one in rendering.rendered()["overlays/variants/keda"] if one["kind"] == "ScaledObject")
    for trigger in scaler["spec"]["triggers"]:
        if trigger["type"] == "prometheus":
            yield "the ScaledObject", trigger["metadata"]["query"]
    adapter = yaml.safe_load((rendering.SOURCES / "components/autoscaling/adapter-values.yaml").read_text())
    for rule in adapter["rules"]["custom"]:
        yield "the adapter", filled(rule["metricsQuery"])
        yield "the adapter's series", rule["seriesQuery"]
