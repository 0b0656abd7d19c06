"""Walks over the objects of one rendering and says where they do not fit each other.

Schemas say whether an object is well formed; no schema says that a Service points at a port that somebody listens on.
Each function here takes the objects of a rendering and yields what is wrong, as sentences. Nothing here knows kustomize.
"""

import re

ADMIN_PATHS = {"/live", "/ready"}
LISTENERS = ("--listen", "--admin", "--webhook")
MADE_BY_HAND = {"mainstay-git", "mainstay-webhook"}
# What stands where a component puts something else while it is rendered.
PLACEHOLDERS = re.compile(r"\.invalid\b|192\.0\.2\.0/24|^CERTIFICATE$|^ALB_SUBNET_ID$|^PROMETHEUS_URL$|^none$|^mainstay:|^mainstay$")


def of(objects, kind):
    return [one for one in objects if one["kind"] == kind]


def name_of(one):
    return f"{one['kind']} {one['metadata']['name']}"


def mounts(container):
    return container.get("volumeMounts", [])


class Pod:
    """A pod as a Deployment makes it."""

    def __init__(self, deployment):
        template = deployment["spec"]["template"]
        self.deployment = deployment
        self.labels = template["metadata"].get("labels", {})
        self.annotations = template["metadata"].get("annotations", {})
        self.spec = template["spec"]
        self.sidecars = [c for c in self.spec.get("initContainers", []) if c.get("restartPolicy") == "Always"]
        self.containers = self.sidecars + self.spec["containers"]

    def container(self, name):
        return next((c for c in self.containers if c["name"] == name), None)

    def port(self, port, containers=None):
        """The number of a port that is named or numbered, or none where no container has it."""
        for container in containers if containers is not None else self.containers:
            for one in container.get("ports", []):
                if port in (one.get("name"), one["containerPort"]):
                    return one["containerPort"]
        return None


def pods(objects):
    return [Pod(one) for one in of(objects, "Deployment")]


def selects(selector, labels):
    return all(labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items()) and not selector.get("matchExpressions")


def argument(container, flag):
    return next((a.split("=", 1)[1] for a in container.get("args", []) if a.startswith(f"{flag}=")), None)


def every_object_has_its_own_name(objects):
    seen = set()
    for one in objects:
        key = (one["apiVersion"].split("/")[0], one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"])
        if key in seen:
            yield f"{name_of(one)} stands twice"
        seen.add(key)


def everything_lies_in_the_one_namespace(objects):
    (namespace,) = of(objects, "Namespace")
    for one in objects:
        where = one["metadata"].get("namespace")
        if one["kind"] not in ("Namespace", "StorageClass", "GatewayClass") and where != namespace["metadata"]["name"]:
            yield f"{name_of(one)} lies in {where}, not in {namespace['metadata']['name']}"


def the_environment_is_the_namespace_s(objects):
    (namespace,) = of(objects, "Namespace")
    environment = namespace["metadata"]["name"].removeprefix("mainstay-")
    sync = next(one for one in of(objects, "ConfigMap") if one["metadata"]["name"].startswith("mainstay-sync"))
    if sync["data"].get("ENVIRONMENT") != environment:
        yield f"the sidecar follows {sync['data'].get('ENVIRONMENT')} in the namespace of {environment}"
    for pod in pods(objects):
        if pod.labels.get("mainstay/environment") != environment:
            yield f"the pods are labelled {pod.labels.get('mainstay/environment')} in the namespace of {environment}"
    for scaler in of(objects, "ScaledObject"):
        for trigger in scaler["spec"]["triggers"]:
            query = trigger["metadata"].get("query")
            if query and f'namespace="{namespace["metadata"]["name"]}"' not in query:
                yield f"{name_of(scaler)} counts requests of another namespace: {query}"


def each_port_is_listened_on_by_its_container(objects):
    for pod in pods(objects):
        for container in pod.containers:
            listened = {}
            for flag in LISTENERS:
                address = argument(container, flag)
                if address:
                    host, _, port = address.rpartition(":")
                    listened[int(port)] = host
            declared = {port["containerPort"] for port in container.get("ports", [])}
            for port in sorted(declared - set(listened)):
                yield f"container {container['name']} declares port {port}, on which nobody listens"
            for port in sorted(set(listened) - declared):
                yield f"container {container['name']} listens on {port}, which it does not declare"
            for port, host in listened.items():
                if host != "0.0.0.0":
                    yield f"container {container['name']} listens on {host}:{port}, where nobody outside the pod reaches it"
        numbers = [port["containerPort"] for container in pod.containers for port in container.get("ports", [])]
        names = [port["name"] for container in pod.containers for port in container.get("ports", [])]
        for clash in sorted({str(one) for both in (numbers, names) for one in both if both.count(one) > 1}):
            yield f"two containers of {name_of(pod.deployment)} have the port {clash}"


def services_point_at_ports_of_pods(objects):
    for service in of(objects, "Service"):
        selector = service["spec"].get("selector")
        chosen = [pod for pod in pods(objects) if selector and selects({"matchLabels": selector}, pod.labels)]
        if not chosen:
            yield f"{name_of(service)} selects no pod"
        for port in service["spec"]["ports"]:
            target = port.get("targetPort", port["port"])
            for pod in chosen:
                if pod.port(target) is None:
                    yield f"{name_of(service)} sends to port {target}, on which no container listens"
            if "nodePort" in port:
                yield f"{name_of(service)} fixes the port {port['nodePort']} on every node"
            if service["spec"].get("type") == "NodePort":
                yield f"{name_of(service)} opens a port on every node"
    main = [s for s in of(objects, "Service") if s["metadata"]["name"] == "pred-main-service"]
    if [port["port"] for service in main for port in service["spec"]["ports"]] != [5000]:
        yield "clients ask pred-main-service on 5000, and it is not there"


def probes_ask_what_the_container_answers(objects):
    for pod in pods(objects):
        for container in pod.containers:
            for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
                probe = container.get(kind)
                if probe is None:
                    yield f"container {container['name']} has no {kind}"
                    continue
                get = probe.get("httpGet")
                if get is None:
                    yield f"the {kind} of {container['name']} does not ask over HTTP"
                    continue
                port = pod.port(get["port"], [container])
                admin = argument(container, "--admin")
                if port is None:
                    yield f"the {kind} of {container['name']} asks port {get['port']}, which the container does not have"
                elif admin is None or port != int(admin.rpartition(":")[2]):
                    yield f"the {kind} of {container['name']} asks port {port}, and operators are answered on {admin}"
                if get["path"] not in ADMIN_PATHS:
                    yield f"the {kind} of {container['name']} asks for {get['path']}, which there is not"
                wanted = "/live" if kind == "livenessProbe" else "/ready"
                if get["path"] in ADMIN_PATHS and get["path"] != wanted:
                    yield f"the {kind} of {container['name']} asks for {get['path']} instead of {wanted}"


def the_two_containers_agree(objects):
    for pod in pods(objects):
        sync, server = pod.container("sync"), pod.container("server")
        if sync is None or server is None:
            yield f"{name_of(pod.deployment)} lacks the sidecar or the server"
            continue
        if sync not in pod.sidecars:
            yield "the sidecar is no native sidecar, so the server does not wait for a release"
        asked = argument(sync, "--server")
        admin = argument(server, "--admin")
        if asked is None or admin is None or asked.rpartition(":")[2] != admin.rpartition(":")[2]:
            yield f"the sidecar asks the server at {asked}, which answers at {admin}"
        if asked and not asked.startswith("http://127.0.0.1:"):
            yield f"the sidecar asks a server of another pod: {asked}"
        stores = []
        for container, read_only in ((sync, False), (server, True)):
            folder = argument(container, "--store")
            mount = next((m for m in mounts(container) if m["mountPath"] == folder), None)
            if mount is None:
                yield f"container {container['name']} has no volume at its store {folder}"
                continue
            stores.append(mount["name"])
            if bool(mount.get("readOnly")) != read_only:
                yield f"container {container['name']} mounts the store {'writable' if read_only else 'read-only'}"
        if len(set(stores)) > 1:
            yield f"the containers have different stores: {stores}"
        if sync["image"] != server["image"]:
            yield f"the containers run different images: {sync['image']} and {server['image']}"


def whatever_is_referred_to_is_there(objects):
    maps = {one["metadata"]["name"]: one.get("data", {}) for one in of(objects, "ConfigMap")}
    accounts = {one["metadata"]["name"] for one in of(objects, "ServiceAccount")}
    classes = {one["metadata"]["name"] for one in of(objects, "StorageClass")}
    for pod in pods(objects):
        if pod.spec.get("serviceAccountName") not in accounts:
            yield f"{name_of(pod.deployment)} has the account {pod.spec.get('serviceAccountName')}, which there is not"
        volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
        if len(volumes) != len(pod.spec.get("volumes", [])):
            yield f"{name_of(pod.deployment)} has two volumes of one name"
        used = set()
        for container in pod.containers:
            variables = {one["name"] for one in container.get("env", [])}
            for source in container.get("envFrom", []):
                wanted = source["configMapRef"]["name"]
                if wanted not in maps:
                    yield f"container {container['name']} takes its environment from {wanted}, which there is not"
                variables |= set(maps.get(wanted, {}))
            for text in container.get("args", []):
                for variable in re.findall(r"\$\(([^)]*)\)", text):
                    if variable not in variables:
                        yield f"container {container['name']} is told {text}, and {variable} is not set"
            for mount in mounts(container):
                used.add(mount["name"])
                if mount["name"] not in volumes:
                    yield f"container {container['name']} mounts {mount['name']}, which is no volume"
            for flag, file in re.findall(r"(--[a-z-]+)=(/(?:secrets|etc)/\S+)", "\n".join(container.get("args", []))):
                mount = next((m for m in mounts(container) if file.startswith(m["mountPath"] + "/")), None)
                volume = volumes.get(mount["name"], {}) if mount else {}
                if mount is None:
                    yield f"{flag} of {container['name']} names {file}, where nothing is mounted"
                elif "configMap" in volume and file.rsplit("/", 1)[1] not in maps.get(volume["configMap"]["name"], {}):
                    yield f"{flag} of {container['name']} names {file}, which {volume['configMap']['name']} does not hold"
        for name in sorted(set(volumes) - used):
            yield f"the volume {name} is mounted nowhere"
        for volume in volumes.values():
            if "configMap" in volume and volume["configMap"]["name"] not in maps:
                yield f"the volume {volume['name']} is of the ConfigMap {volume['configMap']['name']}, which there is not"
            if "secret" in volume and volume["secret"]["secretName"] not in MADE_BY_HAND:
                yield f"the volume {volume['name']} is of the Secret {volume['secret']['secretName']}, of which the docs say nothing"
            if "ephemeral" in volume and volume["ephemeral"]["volumeClaimTemplate"]["spec"]["storageClassName"] not in classes:
                yield f"the volume {volume['name']} is of a storage class that there is not"


def a_pod_has_time_to_end(objects):
    for pod in pods(objects):
        server = pod.container("server")
        sleep = server.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        request, drain = (int(argument(server, flag) or 0) for flag in ("--request-timeout-s", "--drain-timeout-s"))
        grace = pod.spec.get("terminationGracePeriodSeconds", 30)
        if sleep < 5:
            yield "the server ends before load balancers have heard of it"
        if drain < request:
            yield f"a request may take {request} s and has {drain} s at the end"
        if grace <= sleep + drain:
            yield f"the pod is killed after {grace} s, and needs {sleep} s to be left alone and {drain} s to drain"


def there_are_as_many_pods_as_one_place_says(objects):
    scalers = of(objects, "HorizontalPodAutoscaler") + of(objects, "ScaledObject")
    for scaler in scalers:
        target = scaler["spec"]["scaleTargetRef"]
        found = [p for p in pods(objects) if p.deployment["metadata"]["name"] == target["name"] and target["kind"] == "Deployment"]
        if not found:
            yield f"{name_of(scaler)} scales {target['kind']} {target['name']}, which there is not"
        count = "Replicas" if scaler["kind"] == "HorizontalPodAutoscaler" else "ReplicaCount"
        least, most = scaler["spec"][f"min{count}"], scaler["spec"][f"max{count}"]
        if not 1 <= least <= most:
            yield f"{name_of(scaler)} wants from {least} to {most} pods"
        names = [m["containerResource"]["container"] for m in scaler["spec"].get("metrics", []) if m["type"] == "ContainerResource"]
        names += [t["metadata"]["containerName"] for t in scaler["spec"].get("triggers", []) if t["type"] == "cpu"]
        for pod in found:
            for name in names:
                if not (pod.container(name) or {}).get("resources", {}).get("requests", {}).get("cpu"):
                    yield f"{name_of(scaler)} measures the container {name}, which there is not or which asks for no processor"
    for pod in pods(objects):
        said = "replicas" in pod.deployment["spec"]
        if len(scalers) + said != 1:
            yield f"how many pods there are is said in {len(scalers) + said} places"
        strategy = pod.deployment["spec"].get("strategy", {}).get("rollingUpdate", {})
        if strategy.get("maxUnavailable") != 0 or not strategy.get("maxSurge"):
            yield "a rollout takes pods away before there are new ones"


def disruptions_are_bounded(objects):
    for pod in pods(objects):
        budgets = [b for b in of(objects, "PodDisruptionBudget") if selects(b["spec"]["selector"], pod.labels)]
        if len(budgets) != 1:
            yield f"{name_of(pod.deployment)} has {len(budgets)} disruption budgets"
        for budget in budgets:
            if budget["spec"].get("unhealthyPodEvictionPolicy") != "AlwaysAllow":
                yield f"{name_of(budget)} lets pods that are not ready keep a node from being drained"
        for spread in pod.spec.get("topologySpreadConstraints", []):
            if not selects(spread["labelSelector"], pod.labels):
                yield f"the pods are spread over {spread['topologyKey']} with others than themselves"
        topologies = {spread["topologyKey"] for spread in pod.spec.get("topologySpreadConstraints", [])}
        if topologies != {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}:
            yield f"the pods are spread over {sorted(topologies)} alone"


def monitors_scrape_what_answers(objects):
    for monitor in of(objects, "PodMonitor"):
        chosen = [pod for pod in pods(objects) if selects(monitor["spec"]["selector"], pod.labels)]
        if not chosen:
            yield f"{name_of(monitor)} selects no pod"
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            if endpoint.get("path") != "/metrics":
                yield f"{name_of(monitor)} scrapes {endpoint.get('path')}"
            for pod in chosen:
                number = pod.port(endpoint["port"])
                admins = [argument(c, "--admin").rpartition(":")[2] for c in pod.containers if argument(c, "--admin")]
                if number is None:
                    yield f"{name_of(monitor)} scrapes the port {endpoint['port']}, which no container has"
                elif str(number) not in admins:
                    yield f"{name_of(monitor)} scrapes {endpoint['port']}, where there are no metrics"
                if not allowed(objects, pod, number, namespace="monitoring", labels={"app.kubernetes.io/name": "prometheus"}):
                    yield f"no NetworkPolicy lets Prometheus to the port {endpoint['port']}"
        scraped = {pod.port(endpoint["port"]) for pod in chosen for endpoint in monitor["spec"]["podMetricsEndpoints"]}
        for pod in chosen:
            for container in pod.containers:
                if int(argument(container, "--admin").rpartition(":")[2]) not in scraped:
                    yield f"{name_of(monitor)} scrapes nothing of the container {container['name']}"


def allowed(objects, pod, number, namespace=None, labels=None, outside=False):
    """Whether some policy lets a pod of `namespace` with `labels`, or somebody outside the cluster, to the port `number`."""
    for policy in of(objects, "NetworkPolicy"):
        if not selects(policy["spec"]["podSelector"], pod.labels):
            continue
        for rule in policy["spec"].get("ingress", []):
            if all(pod.port(port["port"]) != number for port in rule.get("ports", [])) and rule.get("ports"):
                continue
            if "from" not in rule:
                return True
            for peer in rule["from"]:
                if "ipBlock" in peer:
                    if outside:
                        return True
                elif not outside:
                    there = {"kubernetes.io/metadata.name": namespace}
                    if selects(peer.get("namespaceSelector", {}), there) and selects(peer.get("podSelector", {}), labels or {}):
                        return True
    return False


def policies_hold_the_pods(objects):
    policies = of(objects, "NetworkPolicy")
    denies = [p for p in policies if p["spec"]["podSelector"] == {} and set(p["spec"]["policyTypes"]) == {"Ingress", "Egress"}]
    if not any("ingress" not in p["spec"] and "egress" not in p["spec"] for p in denies):
        yield "nothing is denied by default"
    for policy in policies:
        chosen = [pod for pod in pods(objects) if selects(policy["spec"]["podSelector"], pod.labels)]
        if not chosen:
            yield f"{name_of(policy)} holds for no pod"
        for rule in policy["spec"].get("ingress", []):
            for port in rule.get("ports", []):
                mesh = policy["metadata"]["name"] == "mesh"
                if not mesh and all(pod.port(port["port"]) is None for pod in chosen):
                    yield f"{name_of(policy)} opens the port {port['port']}, which no container has"
            if not rule.get("ports"):
                yield f"{name_of(policy)} opens every port"
        for rule in policy["spec"].get("egress", []):
            if not rule.get("ports") or not rule.get("to"):
                yield f"{name_of(policy)} lets the pods anywhere, or to any port"
            for peer in rule.get("to", []):
                block = peer.get("ipBlock", {})
                if block.get("cidr") == "0.0.0.0/0" and "169.254.0.0/16" not in block.get("except", []):
                    yield f"{name_of(policy)} lets the pods to the machine's own identity"
    for pod in pods(objects):
        if not allowed(objects, pod, pod.port("http"), namespace="some-team", labels={}):
            yield "no other pod of the cluster may ask for a prediction"
        for name in ("admin", "sync-admin"):
            if allowed(objects, pod, pod.port(name), namespace="some-team", labels={}):
                yield f"any pod of the cluster reaches the port {name}"
        names = [p for p in policies if any(port == {"port": 53, "protocol": "UDP"} for r in p["spec"].get("egress", []) for port in r["ports"])]
        if not names:
            yield "the sidecar may ask no name server"


def the_way_in_leads_to_the_server(objects):
    services = {one["metadata"]["name"]: one for one in of(objects, "Service")}
    gateways = {one["metadata"]["name"]: one for one in of(objects, "Gateway")}

    def backend(who, name, port):
        service = services.get(name)
        if service is None:
            yield f"{who} leads to the Service {name}, which there is not"
        elif port not in [p["port"] for p in service["spec"]["ports"]] + [p.get("name") for p in service["spec"]["ports"]]:
            yield f"{who} leads to the port {port} of {name}, which there is not"

    for route in of(objects, "HTTPRoute"):
        for parent in route["spec"]["parentRefs"]:
            if parent["name"] not in gateways:
                yield f"{name_of(route)} hangs on the Gateway {parent['name']}, which there is not"
        for rule in route["spec"]["rules"]:
            for filter_ in rule.get("filters", []):
                if filter_["type"] == "URLRewrite":
                    yield f"{name_of(route)} rewrites what clients asked for"
            for ref in rule["backendRefs"]:
                yield from backend(name_of(route), ref["name"], ref["port"])
    for gateway in gateways.values():
        hosts = {listener.get("hostname") for listener in gateway["spec"]["listeners"]}
        for route in of(objects, "HTTPRoute"):
            for host in route["spec"]["hostnames"]:
                if host not in hosts:
                    yield f"{name_of(route)} is for {host}, and the Gateway for {sorted(hosts)}"
    for ingress in of(objects, "Ingress"):
        if any("rewrite" in key for key in ingress["metadata"].get("annotations", {})):
            yield f"{name_of(ingress)} rewrites what clients asked for"
        hosts = {host for tls in ingress["spec"].get("tls", []) for host in tls["hosts"]}
        for rule in ingress["spec"]["rules"]:
            if rule["host"] not in hosts:
                yield f"{name_of(ingress)} has no certificate for {rule['host']}"
            for path in rule["http"]["paths"]:
                service = path["backend"]["service"]
                port = service["port"]
                yield from backend(name_of(ingress), service["name"], port.get("name", port.get("number")))
    for kind, field in (("HealthCheckPolicy", "targetRef"), ("GCPBackendPolicy", "targetRef"), ("TargetGroupConfiguration", "targetReference")):
        for one in of(objects, kind):
            if one["spec"][field]["name"] not in services:
                yield f"{name_of(one)} is of the Service {one['spec'][field]['name']}, which there is not"
    for check in of(objects, "HealthCheckPolicy"):
        for pod in pods(objects):
            if check["spec"]["default"]["config"]["httpHealthCheck"]["port"] != pod.port("http"):
                yield f"{name_of(check)} asks another port than that of requests"
    for gateway in gateways.values():
        parameters = gateway["spec"].get("infrastructure", {}).get("parametersRef")
        if parameters and parameters["name"] not in {o["metadata"]["name"] for o in of(objects, parameters["kind"])}:
            yield f"{name_of(gateway)} has the parameters {parameters['name']}, which there are not"
    for rule in of(objects, "DestinationRule") + of(objects, "VirtualService"):
        for host in rule["spec"].get("hosts", [rule["spec"].get("host")]):
            if host not in services:
                yield f"{name_of(rule)} is of the Service {host}, which there is not"
    for one in of(objects, "ServiceIntentions") + of(objects, "ServiceDefaults"):
        if one["metadata"]["name"] not in services:
            yield f"{name_of(one)} is of the Service {one['metadata']['name']}, which there is not"
    from_outside = gateways or any(s["spec"].get("type") == "LoadBalancer" for s in services.values())
    for pod in pods(objects):
        if from_outside and not allowed(objects, pod, pod.port("http"), outside=True):
            yield "no NetworkPolicy lets the load balancer to the pods"


def a_mesh_leaves_the_admin_ports_alone(objects):
    # The admin listeners take orders from this host, and a mesh's proxy is on it.
    for pod in pods(objects):
        admins = {argument(c, "--admin").rpartition(":")[2] for c in pod.containers}
        for trigger, key in (
            ("sidecar.istio.io/inject", "traffic.sidecar.istio.io/excludeInboundPorts"),
            ("consul.hashicorp.com/connect-inject", "consul.hashicorp.com/transparent-proxy-exclude-inbound-ports"),
        ):
            if {**pod.labels, **pod.annotations}.get(trigger) == "true":
                left = admins - set(pod.annotations.get(key, "").split(","))
                if left:
                    yield f"the mesh's proxy hands requests on to the admin ports {sorted(left)}"
        service = pod.annotations.get("consul.hashicorp.com/connect-service-port")
        if service and pod.port(service) is None:
            yield f"the mesh asks the port {service}, which no container has"


def pods_are_restricted(objects):
    for namespace in of(objects, "Namespace"):
        if namespace["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce") != "restricted":
            yield f"{name_of(namespace)} takes pods that are not restricted"
    for account in of(objects, "ServiceAccount"):
        if account.get("automountServiceAccountToken") is not False:
            yield f"{name_of(account)} gives its token away"
    for pod in pods(objects):
        security = pod.spec.get("securityContext", {})
        if not security.get("runAsNonRoot") or security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{name_of(pod.deployment)} may run as root, or with any system call"
        if not security.get("runAsUser") or security.get("fsGroup") != security.get("runAsGroup"):
            yield f"{name_of(pod.deployment)} does not say who it runs as"
        if pod.spec.get("automountServiceAccountToken") is not False:
            yield f"{name_of(pod.deployment)} has a token for the cluster's API"
        for flag in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"):
            if pod.spec.get(flag):
                yield f"{name_of(pod.deployment)} has {flag}"
        for volume in pod.spec.get("volumes", []):
            if "hostPath" in volume:
                yield f"the volume {volume['name']} is a folder of the node"
        for container in pod.containers:
            own = container.get("securityContext", {})
            if own.get("allowPrivilegeEscalation") is not False or not own.get("readOnlyRootFilesystem") or own.get("capabilities") != {"drop": ["ALL"]}:
                yield f"container {container['name']} can do more than it needs"
            if any(one["name"].startswith(("AWS_SECRET", "AZURE_STORAGE_ACCOUNT_KEY")) for one in container.get("env", [])):
                yield f"container {container['name']} has a key that does not expire"


UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def quantity(text):
    """A quantity of processors or bytes as a number."""
    text = str(text)
    if text.endswith("m"):
        return float(text[:-1]) / 1000
    for suffix, factor in UNITS.items():
        if text.endswith(suffix):
            return float(text[:-2]) * factor
    return float(text)


def resources_are_said(objects):
    for pod in pods(objects):
        for container in pod.containers:
            asked, most = (container.get("resources", {}).get(key, {}) for key in ("requests", "limits"))
            for name in ("cpu", "memory", "ephemeral-storage"):
                if name not in asked:
                    yield f"container {container['name']} asks for no {name}"
                if name != "cpu" and name not in most:
                    yield f"container {container['name']} has no limit of {name}"
                elif name in most and name in asked and quantity(most[name]) < quantity(asked[name]):
                    yield f"container {container['name']} asks for more {name} than it may have"
        disks = sum(quantity(v["emptyDir"]["sizeLimit"]) for v in pod.spec["volumes"] if "emptyDir" in v and "sizeLimit" in v["emptyDir"])
        for volume in pod.spec["volumes"]:
            if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
                yield f"the volume {volume['name']} has no limit"
        asked = sum(quantity(c["resources"]["requests"].get("ephemeral-storage", 0)) for c in pod.containers if "resources" in c)
        if asked < disks:
            yield f"the volumes may grow to {disks / 2**20:.0f} MiB and the pod asks the node for {asked / 2**20:.0f} MiB"


def the_cloud_knows_the_pod(objects):
    accounts = {one["metadata"]["name"]: one["metadata"].get("annotations", {}) for one in of(objects, "ServiceAccount")}
    policies = {one["metadata"]["name"]: one for one in of(objects, "NetworkPolicy")}
    sync = next((o["data"] for o in of(objects, "ConfigMap") if o["metadata"]["name"].startswith("mainstay-sync")), {})
    scheme = sync.get("ARTIFACTS", "").split("://")[0]
    for pod in pods(objects):
        container = pod.container("sync")
        if "--allow-artifacts-from=$(ARTIFACTS)" not in container.get("args", []):
            yield "the sidecar is allowed to fetch from nowhere"
        azure = pod.labels.get("azure.workload.identity/use") == "true"
        client = accounts.get(pod.spec["serviceAccountName"], {}).get("azure.workload.identity/client-id")
        if azure != bool(client) or azure != (scheme == "az"):
            yield f"artifacts are of {scheme}://, and the pod's identity of Azure is half there: label {azure}, client id {client}"
        if scheme == "az" and not sync.get("AZURE_STORAGE_ACCOUNT_NAME"):
            yield "az:// is of no storage account"
        address = {"s3": "169.254.170.23/32", "gs": "169.254.169.254/32"}.get(scheme)
        reached = [p["ipBlock"]["cidr"] for r in policies.get("identity", {}).get("spec", {}).get("egress", []) for p in r["to"]]
        if address and address not in reached:
            yield f"the pod does not reach what gives it its credentials for {scheme}://"


def nothing_is_left_to_be_filled_in(objects):
    def texts(value):
        if isinstance(value, dict):
            for one in value.values():
                yield from texts(one)
        elif isinstance(value, list):
            for one in value:
                yield from texts(one)
        elif isinstance(value, str):
            yield value

    for one in objects:
        spec = one.get("spec", {})
        if one["kind"] == "Deployment":
            images = [c["image"] for pod in pods([one]) for c in pod.containers]
            for image in images:
                if "/" not in image or not re.search(r"(:v?\d|@sha256:[0-9a-f]{64}$)", image):
                    yield f"the image {image} is of no registry, or of no version"
        elif one["kind"] in ("HTTPRoute", "Gateway", "Ingress", "NetworkPolicy", "LoadBalancerConfiguration", "ApplicationLoadBalancer", "ScaledObject"):
            kept = {k: v for k, v in spec.items() if k not in ("parentRefs", "scaleTargetRef", "infrastructure")}
            for text in texts(kept):
                if PLACEHOLDERS.search(text) and text != "mainstay":
                    yield f"{name_of(one)} has {text}, which nobody filled in"


def no_api_is_on_its_way_out(objects):
    builtin = re.compile(r"^(v1|apps|batch|autoscaling|policy|networking\.k8s\.io|rbac\.authorization\.k8s\.io|storage\.k8s\.io)(/|$)")
    for one in objects:
        if builtin.match(one["apiVersion"]) and re.search(r"(alpha|beta)", one["apiVersion"]):
            yield f"{name_of(one)} is of {one['apiVersion']}"


CHECKS = [
    every_object_has_its_own_name,
    everything_lies_in_the_one_namespace,
    the_environment_is_the_namespace_s,
    each_port_is_listened_on_by_its_container,
    services_point_at_ports_of_pods,
    probes_ask_what_the_container_answers,
    the_two_containers_agree,
    whatever_is_referred_to_is_there,
    a_pod_has_time_to_end,
    there_are_as_many_pods_as_one_place_says,
    disruptions_are_bounded,
    monitors_scrape_what_answers,
    policies_hold_the_pods,
    the_way_in_leads_to_the_server,
    a_mesh_leaves_the_admin_ports_alone,
    pods_are_restricted,
    resources_are_said,
    the_cloud_knows_the_pod,
    nothing_is_left_to_be_filled_in,
    no_api_is_on_its_way_out,
]


def problems(objects):
    """Everything that is wrong with a rendering in which Mainstay runs."""
    return [f"{check.__name__}: {problem}" for check in CHECKS for problem in check(objects)]
