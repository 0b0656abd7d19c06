"""What operators apply is well formed, for each Kubernetes version, with unknown fields refused, and fits together."""

import ast
import copy
import importlib.util
import json
import os
import re
import subprocess
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import rendering
import walker
import yaml

# The versions that are supported, and what the three clouds offer of them.
KUBERNETES = ["1.35", "1.36", "1.37"]
BUILTIN = re.compile(r"^(v1|apps/|autoscaling/|policy/|networking\.k8s\.io/|rbac\.authorization\.k8s\.io/|storage\.k8s\.io/)")
PUBLISHED = {
    "argoproj.io",
    "gateway.networking.k8s.io",
    "keda.sh",
    "kustomize.toolkit.fluxcd.io",
    "monitoring.coreos.com",
    "networking.gke.io",
    "networking.istio.io",
    "notification.toolkit.fluxcd.io",
    "security.istio.io",
    "source.toolkit.fluxcd.io",
}


def closed(required=(), **properties):
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def sealed(kind_spec):
    metadata = closed(["name", "namespace"], name=TEXT, namespace=TEXT, labels=ANY, annotations=ANY)
    return closed(["apiVersion", "kind", "metadata", "spec"], apiVersion=TEXT, kind=TEXT, metadata=metadata, spec=kind_spec)


TEXT, ANY = {"type": "string"}, {"type": "object"}
# Of these nobody publishes types that can be installed. Written from the definitions that their controllers bring, as far
# as they are used here.
WRITTEN = {
    "gateway.k8s.aws/v1beta1 LoadBalancerConfiguration": closed(
        scheme={"enum": ["internal", "internet-facing"]},
        listenerConfigurations={
            "type": "array",
            "items": closed(
                ["protocolPort"],
                protocolPort={"type": "string", "pattern": r"^(HTTP|HTTPS|TLS|TCP|UDP|TCP_UDP):\d+$"},
                defaultCertificate=TEXT,
            ),
        },
    ),
    "gateway.k8s.aws/v1beta1 TargetGroupConfiguration": closed(
        ["targetReference", "defaultConfiguration"],
        targetReference=closed(["name"], group=TEXT, kind=TEXT, name=TEXT),
        defaultConfiguration=closed(
            targetType={"enum": ["instance", "ip"]},
            healthCheckConfig=closed(
                healthCheckInterval={"type": "integer"},
                healthCheckPath=TEXT,
                healthCheckProtocol={"enum": ["HTTP", "HTTPS", "TCP"]},
                healthyThresholdCount={"type": "integer"},
                unhealthyThresholdCount={"type": "integer"},
            ),
            targetGroupAttributes={"type": "array", "items": closed(["key", "value"], key=TEXT, value=TEXT)},
        ),
    ),
    "alb.networking.azure.io/v1 ApplicationLoadBalancer": closed(
        ["associations"], associations={"type": "array", "items": {"type": "string", "pattern": r"^/subscriptions/.+/subnets/.+$"}}
    ),
    "consul.hashicorp.com/v1alpha1 ServiceDefaults": closed(protocol={"enum": ["tcp", "http", "http2", "grpc"]}),
    "consul.hashicorp.com/v1alpha1 ServiceIntentions": closed(
        ["destination", "sources"],
        destination=closed(["name"], name=TEXT),
        sources={"type": "array", "items": closed(["name", "action"], name=TEXT, action={"enum": ["allow", "deny"]})},
    ),
}


def group(one):
    return one["apiVersion"].split("/")[0]


@pytest.mark.parametrize("folder", [*rendering.OVERLAYS, *[f"overlays/variants/{name}" for name in rendering.VARIANTS]])
def test_what_is_rendered_fits_together(folder):
    assert walker.problems(rendering.rendered()[folder]) == []


def validated(one, version):
    """Why a built-in object is not of its schema, or none."""
    try:
        kubernetes_validate.validate(one, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{'.'.join(map(str, error.path))}: {error.message}"
    except Exception as error:  # What has no schema is an API that this version does not serve.
        return f"{type(error).__name__}: {error}"
    return None


@pytest.mark.parametrize("version", KUBERNETES)
def test_each_built_in_object_is_of_its_schema(version):
    builtin = [(folder, one) for folder, one in rendering.distinct() if BUILTIN.match(one["apiVersion"])]
    assert len(builtin) > 50
    assert [f"{folder} {rendering.named(one)}: {why}" for folder, one in builtin if (why := validated(one, version))] == []


@pytest.mark.parametrize("version", KUBERNETES)
def test_a_field_that_is_misspelt_or_of_an_api_that_is_gone_is_refused(version):
    deployment = copy.deepcopy(next(one for one in rendering.rendered()["overlays/eks/prod"] if one["kind"] == "Deployment"))
    deployment["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    assert "livenesProbe" in validated(deployment, version)
    assert validated({"apiVersion": "policy/v1beta1", "kind": "PodDisruptionBudget", "metadata": {"name": "x"}, "spec": {}}, version)


def published(cases):
    file = rendering.WORK / "cases.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(cases))
    script = Path(__file__).with_name("custom.mjs")
    done = subprocess.run(["node", str(script), str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def dashboards():
    folder = rendering.SOURCES / "components/monitoring/dashboards"
    return {file.name: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}


def test_custom_resources_and_dashboards_are_of_the_types_that_their_makers_publish():
    objects = [(folder, one) for folder, one in rendering.distinct() if group(one) in PUBLISHED]
    assert {group(one) for _, one in objects} == PUBLISHED
    cases = [{"name": f"{folder} {rendering.named(one)} {i}", "object": one} for i, (folder, one) in enumerate(objects)]
    cases += [{"name": name, "dashboard": dashboard} for name, dashboard in dashboards().items()]
    # Faults of each sort, which must be found beside: unknown fields, wrong types, patterns, a misspelt panel.
    planted = {}

    def plant(kind, change):
        case = copy.deepcopy(next(c for c in cases if c.get("object", {}).get("kind") == kind or c["name"] == kind))
        case["name"] = f"planted {len(planted)}"
        change(case.get("object") or case["dashboard"])
        planted[case["name"]] = case

    plant("ApplicationSet", lambda one: one["spec"]["template"]["spec"].update(sourse={}))
    plant("PodMonitor", lambda one: one["spec"]["podMetricsEndpoints"][0].update(interval="often"))
    plant("HTTPRoute", lambda one: one["spec"]["rules"][0]["backendRefs"][0].update(port="5000"))
    plant("ScaledObject", lambda one: one["spec"].update(maxReplicas=3))
    plant("Kustomization", lambda one: one["spec"].update(prune="yes"))
    plant("HealthCheckPolicy", lambda one: one["spec"]["default"]["config"].update(type="HTTTP"))
    plant("PeerAuthentication", lambda one: one["spec"]["mtls"].update(mode="ALWAYS"))
    plant("mainstay-sync.json", lambda one: one["panels"][1]["gridPos"].update(h="4"))
    plant("mainstay-serving.json", lambda one: one.update(pannels=[]))
    found = published(cases + list(planted.values()))
    assert {name: why for name, why in found.items() if why and name not in planted} == {}
    assert [name for name in planted if not found[name]] == []


def test_custom_resources_without_published_types_are_of_the_schemas_written_here():
    objects = [(folder, one) for folder, one in rendering.distinct() if f"{one['apiVersion']} {one['kind']}" in WRITTEN]
    assert {f"{one['apiVersion']} {one['kind']}" for _, one in objects} == set(WRITTEN)
    for _, one in objects:
        jsonschema.validate(one, sealed(WRITTEN[f"{one['apiVersion']} {one['kind']}"]))
        worse = copy.deepcopy(one)
        worse["spec"]["nonsense"] = True
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(worse, sealed(WRITTEN[f"{one['apiVersion']} {one['kind']}"]))


def kserve_types():
    """The fields and types of KServe's resources, read from its Python client without importing it."""
    folder = Path(importlib.util.find_spec("kserve").submodule_search_locations[0]) / "models"
    types = {}
    for file in folder.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef):
                tables = {
                    target.id: ast.literal_eval(statement.value)
                    for statement in node.body
                    if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict)
                    for target in statement.targets
                }
                if {"openapi_types", "attribute_map"} <= set(tables):
                    types[node.name] = {json_: tables["openapi_types"][own] for own, json_ in tables["attribute_map"].items()}
    return types


def kserve_problems(value, type_, types, path):
    if type_ == "V1Container":
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [value]}}
        why = validated(pod, KUBERNETES[-1])
        if why:
            yield f"{path}: {why}"
    elif type_ == "V1Volume":
        container = {"name": "x", "image": "x"}
        why = validated({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [container], "volumes": [value]}}, KUBERNETES[-1])
        if why:
            yield f"{path}: {why}"
    elif match := re.match(r"list\[(.+)\]$", type_, re.IGNORECASE):
        for i, one in enumerate(value):
            yield from kserve_problems(one, match[1], types, f"{path}[{i}]")
    elif type_ in types:
        for key, one in value.items():
            if key not in types[type_]:
                yield f"{path}.{key}: {type_} has no such field"
            else:
                yield from kserve_problems(one, types[type_][key], types, f"{path}.{key}")
    elif type_ in ("str", "int", "bool") and type(value).__name__ != type_:
        yield f"{path}: {value!r} is no {type_}"


def test_kserve_s_resources_are_of_the_types_of_its_client():
    types = kserve_types()
    wanted = {"ClusterServingRuntime": "V1alpha1ClusterServingRuntime", "InferenceService": "V1beta1InferenceService"}
    objects = {one["kind"]: one for one in rendering.rendered()["kserve"] if one["kind"] in wanted}
    assert set(objects) == set(wanted)
    for kind, one in objects.items():
        assert list(kserve_problems(one, wanted[kind], types, kind)) == []
    for kind, change in (
        ("ClusterServingRuntime", lambda spec: spec.update(supportedFormats=[])),
        ("ClusterServingRuntime", lambda spec: spec["containers"][0].update(imagePullPolcy="Always")),
        ("InferenceService", lambda spec: spec["predictor"].update(minReplicas="2")),
    ):
        worse = copy.deepcopy(objects[kind])
        change(worse["spec"])
        assert list(kserve_problems(worse, wanted[kind], types, kind)) != []


def test_kserve_s_containers_agree_with_each_other():
    objects = rendering.rendered()["kserve"]
    runtime = next(one for one in objects if one["kind"] == "ClusterServingRuntime")["spec"]
    service = next(one for one in objects if one["kind"] == "InferenceService")["spec"]["predictor"]
    settings = next(one for one in objects if one["kind"] == "ConfigMap")
    server, sync = runtime["containers"]
    assert server["name"] == "kserve-container"
    assert walker.argument(server, "--listen").rpartition(":")[2] == str(server["ports"][0]["containerPort"])
    admin = int(walker.argument(server, "--admin").rpartition(":")[2])
    assert {server[probe]["httpGet"]["port"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")} == {admin}
    assert runtime["annotations"]["prometheus.kserve.io/port"] == str(admin)
    assert walker.argument(sync, "--server") == f"http://127.0.0.1:{admin}"
    assert server["volumeMounts"] == [{"name": "store", "mountPath": walker.argument(server, "--store"), "readOnly": True}]
    assert {"name": "store", "mountPath": walker.argument(sync, "--store")} in sync["volumeMounts"]
    assert sync["envFrom"][0]["configMapRef"]["name"] == settings["metadata"]["name"]
    asked = {variable for text in sync["args"] for variable in re.findall(r"\$\(([^)]*)\)", text)}
    assert asked == set(settings["data"])
    assert {"name": service["model"]["modelFormat"]["name"], "version": "1", "autoSelect": True} in runtime["supportedModelFormats"]
    assert service["terminationGracePeriodSeconds"] > int(walker.argument(server, "--drain-timeout-s"))
    assert "/" in server["image"] and server["image"] == sync["image"]


def test_everything_rendered_is_held_against_some_schema():
    for folder, one in rendering.distinct():
        known = BUILTIN.match(one["apiVersion"]) or group(one) in PUBLISHED | {"serving.kserve.io"}
        assert known or f"{one['apiVersion']} {one['kind']}" in WRITTEN, f"{folder}: {rendering.named(one)}"


# Kustomize passes over what matches nothing: a patch's target, an image's name, a replacement's target.
LISTS = ("patches", "images", "replicas", "replacements", "components", "resources", "configMapGenerator", "labels")


def entries():
    """Every entry of every kustomization, with the renderings that use it."""
    users = {}
    for folder in rendering.rendered():
        seen = set()

        def follow(where):
            where = where.resolve()
            file = where / "kustomization.yaml"
            if where in seen or not file.is_file():
                return
            seen.add(where)
            users.setdefault(where, []).append(folder)
            content = yaml.safe_load(file.read_text())
            for one in content.get("resources", []) + content.get("components", []):
                follow(where / one)

        follow(rendering.tree() / folder)
    for where in sorted(users):
        content = yaml.safe_load((where / "kustomization.yaml").read_text())
        for key in LISTS:
            for index, one in enumerate(content.get(key, [])):
                operations = yaml.safe_load(one["patch"]) if key == "patches" else [None]
                for step, operation in enumerate(operations):
                    if operation is None or operation["op"] != "test":
                        yield where, users[where], key, index, step
                for target in range(len(one.get("targets", [])) if key == "replacements" else 0):
                    for path in range(len(one["targets"][target]["fieldPaths"])):
                        yield where, users[where], key, index, (target, path)
        if "namespace" in content:
            yield where, users[where], "namespace", None, None


def without(content, key, index, step):
    """The kustomization without one entry, or without one step of a patch or one path of a replacement."""
    content = copy.deepcopy(content)
    if index is None:
        del content[key]
    elif key == "patches":
        operations = yaml.safe_load(content[key][index]["patch"])
        del operations[step]
        content[key][index]["patch"] = yaml.safe_dump(operations)
    elif key == "replacements" and isinstance(step, tuple):
        target, path = step
        del content[key][index]["targets"][target]["fieldPaths"][path]
        if not content[key][index]["targets"][target]["fieldPaths"]:
            del content[key][index]
    else:
        del content[key][index]
    return content


def test_each_entry_of_each_kustomization_changes_what_is_rendered():
    before = {folder: (rendering.WORK / "rendered" / f"{folder.replace('/', '-')}.yaml").read_text() for folder in rendering.rendered()}
    idle, count, done = [], 0, set()

    def differs(folder):
        try:
            return rendering.kustomize(rendering.tree() / folder) != before[folder]
        except RuntimeError:
            return True  # Something else needs the entry.

    for where, folders, key, index, step in entries():
        file = where / "kustomization.yaml"
        text = file.read_text()
        # The overlays, and Flux's, are nine times the same: one of a cloud, and one of an environment, is enough.
        relative = where.relative_to(rendering.tree().resolve()).as_posix()
        likeness = re.sub(r"^(overlays|flux)/(eks|aks|gke)/(stage|prod)", r"\1/\2/later", relative)
        if (likeness, key, index, step) in done or relative.startswith("overlays/variants/"):
            continue
        done.add((likeness, key, index, step))
        file.write_text(yaml.safe_dump(without(yaml.safe_load(text), key, index, step)))
        try:
            changed = any(differs(folder) for folder in folders)
        finally:
            file.write_text(text)
        count += 1
        if not changed:
            idle.append(f"{where.relative_to(rendering.tree().resolve())}: {key}[{index}] {step}")
    assert count > 100
    # dev has its namespace's name ready for a component that no shipped overlay of dev has.
    assert idle == ["components/dev: configMapGenerator[1] 0"]


def resource(kind):
    """The plural by which RBAC knows a kind."""
    lower = kind.lower()
    if lower in ("servicedefaults", "serviceintentions"):
        return lower
    if lower.endswith("s"):
        return f"{lower}es"
    return re.sub(r"([^aeiou])y$", r"\1ie", lower) + "s"


def test_argo_cd_may_apply_everything_that_is_rendered_and_nothing_else():
    project = next(one for one in rendering.rendered()["argocd"] if one["kind"] == "AppProject")["spec"]
    cluster_scoped = {"Namespace", "GatewayClass", "StorageClass"}
    kinds = {("" if "/" not in one["apiVersion"] else group(one), one["kind"]) for objects in rendering.workloads().values() for one in objects}
    listed = {name: {(e["group"], e["kind"]) for e in project[name]} for name in ("clusterResourceWhitelist", "namespaceResourceWhitelist")}
    assert listed["clusterResourceWhitelist"] == {kind for kind in kinds if kind[1] in cluster_scoped}
    assert listed["namespaceResourceWhitelist"] == {kind for kind in kinds if kind[1] not in cluster_scoped}
    namespaces = {objects[0]["metadata"]["name"] for objects in rendering.workloads().values()}
    assert {destination["namespace"] for destination in project["destinations"]} == namespaces

    role = next(one for one in rendering.rendered()["argocd/cluster/prod"] if one["kind"] == "Role")
    changes = {(g, r) for rule in role["rules"] if "create" in rule["verbs"] for g in rule["apiGroups"] for r in rule["resources"]}
    assert changes == {(g, resource(kind)) for g, kind in listed["namespaceResourceWhitelist"]}
    everything = [one for folder in rendering.OTHERS if folder.startswith("argocd/cluster") for one in rendering.rendered()[folder]]
    for one in everything:
        for rule in one.get("rules", []):
            assert "secrets" not in rule["resources"] and "*" not in rule["resources"] + rule["verbs"] + rule["apiGroups"]
    for binding in (one for one in everything if one["kind"].endswith("Binding")):
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "argocd-manager", "namespace": "argocd-manager"}]
        there = {(one["kind"], one["metadata"]["name"]) for one in everything}
        assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) in there and ("ServiceAccount", "argocd-manager") in there


def executed(template, data):
    """What Go's templates make of it, as Argo CD executes them; kubectl has the same."""
    file = rendering.WORK / "template.json"
    file.write_text(json.dumps({"apiVersion": "example.com/v1", "kind": "Data", **data}))
    command = ["kubectl", "label", "--local", "-f", str(file), "x=y", "-o", f"go-template={template}", "--allow-missing-template-keys=false"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "KUBECONFIG": "/dev/null"})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_application_set_makes_an_application_per_cluster_and_environment():
    spec = next(one for one in rendering.rendered()["argocd"] if one["kind"] == "ApplicationSet")["spec"]
    assert spec["goTemplate"] is True
    seen = set()
    for generator in spec["generators"]:
        (expression,) = generator["clusters"]["selector"]["matchExpressions"]
        for cloud in expression["values"]:
            cluster = {"metadata": {"name": "x", "labels": {expression["key"]: cloud}}, "name": "Berlin 1", "nameNormalized": "berlin-1", "server": "https://berlin"}
            values = {key: executed(value, cluster) if "{{" in value else value for key, value in generator["clusters"]["values"].items()}
            environment = values["environment"]
            assert expression["key"] == f"mainstay/{environment}"
            data = {**cluster, "values": values}
            app = yaml.safe_load(executed(yaml.safe_dump(spec["template"], width=10000), data))
            patch = yaml.safe_load(executed(spec["templatePatch"], data)) or {}
            path = app["spec"]["source"]["path"]
            assert path == f"k8s/overlays/{cloud}/{environment}"
            assert (rendering.ROOT / path / "kustomization.yaml").is_file()
            assert app["metadata"]["name"] == f"mainstay-{environment}-berlin-1"
            assert app["spec"]["destination"] == {"server": "https://berlin", "namespace": f"mainstay-{environment}"}
            # dev follows by itself; prod and stage when they are told.
            automated = patch.get("spec", {}).get("syncPolicy", {}).get("automated")
            assert automated == ({"prune": True, "selfHeal": True} if environment == "dev" else None)
            assert "automated" not in app["spec"]["syncPolicy"]
            seen.add((cloud, environment))
    assert seen == {(cloud, environment) for cloud in rendering.CLOUDS for environment in rendering.ENVIRONMENTS}


def test_notifications_are_those_that_applications_subscribe_to():
    data = next(one for one in rendering.rendered()["argocd/notifications"] if one["kind"] == "ConfigMap")["data"]
    application = next(one for one in rendering.rendered()["argocd"] if one["kind"] == "ApplicationSet")["spec"]["template"]
    subscribed = {key.split("/")[1].split(".")[1] for key in application["metadata"]["annotations"]}
    services = {key.split("/")[1].split(".")[2] for key in application["metadata"]["annotations"]}
    triggers = {key.removeprefix("trigger.") for key in data if key.startswith("trigger.")}
    assert subscribed == triggers and {f"service.{service}" for service in services} <= set(data)
    for trigger in triggers:
        for step in yaml.safe_load(data[f"trigger.{trigger}"]):
            assert all(f"template.{name}" in data for name in step["send"])


def test_flux_follows_dev_and_waits_with_the_rest():
    for cloud in rendering.CLOUDS:
        for environment in rendering.ENVIRONMENTS:
            objects = rendering.rendered()[f"flux/{cloud}/{environment}"]
            by_kind = {one["kind"]: one for one in objects}
            spec = by_kind["Kustomization"]["spec"]
            assert spec["path"] == f"./k8s/overlays/{cloud}/{environment}"
            assert spec.get("suspend", False) == (environment != "dev")
            assert spec["sourceRef"] == {"kind": "GitRepository", "name": by_kind["GitRepository"]["metadata"]["name"]}
            alert = by_kind["Alert"]["spec"]
            assert alert["providerRef"]["name"] == by_kind["Provider"]["metadata"]["name"]
            assert [source["name"] for source in alert["eventSources"]] == [by_kind[s["kind"]]["metadata"]["name"] for s in alert["eventSources"]]


def test_argo_cd_makes_the_namespace_first_and_routes_last():
    for folder, objects in rendering.workloads().items():
        wave = {rendering.named(one): int(one["metadata"].get("annotations", {}).get("argocd.argoproj.io/sync-wave", 0)) for one in objects}
        (namespace,) = [value for key, value in wave.items() if key.startswith("Namespace/")]
        assert namespace == min(wave.values()), folder
        assert list(wave.values()).count(namespace) == 1, folder
        for key, value in wave.items():
            if key.startswith(("HTTPRoute/", "Ingress/")):
                assert value > wave["Deployment/mainstay"], f"{folder}: {key}"
            if key.startswith(("ServiceAccount/", "NetworkPolicy/")):
                assert value < wave["Deployment/mainstay"], f"{folder}: {key}"
