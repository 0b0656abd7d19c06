"""The walker finds what it is there to find: each fault is planted into a rendering that is good, alone."""

import copy

import pytest
import rendering
import walker

# The rendering that faults are planted into, where a fault says no other.
PROD = "overlays/eks/prod"


def one(objects, kind, name=None):
    return next(o for o in objects if o["kind"] == kind and name in (None, o["metadata"]["name"]))


def pod(objects):
    return one(objects, "Deployment")["spec"]["template"]["spec"]


def server(objects):
    return pod(objects)["containers"][0]


def sync(objects):
    return pod(objects)["initContainers"][0]


def replace_argument(container, flag, value):
    container["args"] = [f"{flag}={value}" if a.startswith(f"{flag}=") else a for a in container["args"]]


def drop(objects, kind, name=None):
    objects.remove(one(objects, kind, name))


FAULTS = {}


def fault(check, says, overlay=PROD):
    """Registers a function that plants a fault, which `check` is to find with the words `says`."""

    def register(plant):
        FAULTS[plant.__name__] = (plant, check, says, overlay)
        return plant

    return register


# The dev overlay of the replaced system sent the Service to a port that nobody listened on.
@fault(walker.services_point_at_ports_of_pods, "on which no container listens", "overlays/eks/dev")
def a_service_points_at_a_port_nobody_listens_on(objects):
    one(objects, "Service", "pred-main-service")["spec"]["ports"][0]["targetPort"] = 5001


@fault(walker.each_port_is_listened_on_by_its_container, "on which nobody listens")
def the_server_listens_elsewhere_than_it_declares(objects):
    replace_argument(server(objects), "--listen", "0.0.0.0:8080")


@fault(walker.each_port_is_listened_on_by_its_container, "nobody outside the pod reaches it")
def the_admin_port_is_open_to_the_pod_alone(objects):
    replace_argument(server(objects), "--admin", "127.0.0.1:9090")


@fault(walker.each_port_is_listened_on_by_its_container, "have the port 9090")
def two_containers_have_one_port(objects):
    sync(objects)["ports"][0]["containerPort"] = 9090
    replace_argument(sync(objects), "--admin", "0.0.0.0:9090")


@fault(walker.services_point_at_ports_of_pods, "selects no pod")
def a_service_selects_nothing(objects):
    one(objects, "Service")["spec"]["selector"] = {"app": "mainstay"}


@fault(walker.services_point_at_ports_of_pods, "on every node")
def a_node_port_is_fixed(objects):
    one(objects, "Service")["spec"]["ports"][0]["nodePort"] = 30500


# The ingress of the replaced system made /predict into /.
@fault(walker.the_way_in_leads_to_the_server, "rewrites what clients asked for", "overlays/variants/ingress")
def an_ingress_rewrites_the_path(objects):
    one(objects, "Ingress")["metadata"]["annotations"]["nginx.ingress.kubernetes.io/rewrite-target"] = "/"


@fault(walker.the_way_in_leads_to_the_server, "which there is not")
def a_route_leads_to_another_port(objects):
    one(objects, "HTTPRoute")["spec"]["rules"][0]["backendRefs"][0]["port"] = 80


@fault(walker.the_way_in_leads_to_the_server, "and the Gateway for")
def a_route_is_for_another_name_than_its_gateway(objects):
    one(objects, "HTTPRoute")["spec"]["hostnames"] = ["models.stage.example.com"]


@fault(walker.the_way_in_leads_to_the_server, "lets the load balancer to the pods")
def the_load_balancer_is_kept_out(objects):
    drop(objects, "NetworkPolicy", "load-balancer")


@fault(walker.the_way_in_leads_to_the_server, "asks another port", "overlays/gke/prod")
def a_health_check_asks_another_port(objects):
    one(objects, "HealthCheckPolicy")["spec"]["default"]["config"]["httpHealthCheck"]["port"] = 8080


@fault(walker.probes_ask_what_the_container_answers, "which the container does not have")
def a_probe_asks_the_other_container(objects):
    server(objects)["readinessProbe"]["httpGet"]["port"] = "sync-admin"


@fault(walker.probes_ask_what_the_container_answers, "operators are answered on")
def a_probe_asks_the_port_of_requests(objects):
    server(objects)["livenessProbe"]["httpGet"]["port"] = "http"


@fault(walker.probes_ask_what_the_container_answers, "which there is not")
def a_probe_asks_for_healthz(objects):
    server(objects)["livenessProbe"]["httpGet"]["path"] = "/healthz"


@fault(walker.probes_ask_what_the_container_answers, "instead of /live")
def a_liveness_probe_waits_for_models(objects):
    server(objects)["livenessProbe"]["httpGet"]["path"] = "/ready"


@fault(walker.the_two_containers_agree, "the server does not wait")
def the_sidecar_is_an_ordinary_container(objects):
    del sync(objects)["restartPolicy"]
    pod(objects)["containers"].append(pod(objects)["initContainers"].pop())


@fault(walker.the_two_containers_agree, "which answers at")
def the_sidecar_asks_another_port_of_the_server(objects):
    replace_argument(sync(objects), "--server", "http://127.0.0.1:9091")


@fault(walker.the_two_containers_agree, "mounts the store writable")
def the_server_can_write_the_store(objects):
    server(objects)["volumeMounts"][0]["readOnly"] = False


@fault(walker.the_two_containers_agree, "no volume at its store")
def the_server_reads_another_folder(objects):
    replace_argument(server(objects), "--store", "/models")


@fault(walker.the_two_containers_agree, "different images")
def the_containers_are_of_two_versions(objects):
    server(objects)["image"] = "registry.example.com/mainstay:v9.9.9"


@fault(walker.whatever_is_referred_to_is_there, "REPOSITORY is not set")
def the_repository_is_not_said(objects):
    sync_settings = next(o for o in objects if o["kind"] == "ConfigMap" and o["metadata"]["name"].startswith("mainstay-sync"))
    del sync_settings["data"]["REPOSITORY"]


@fault(walker.whatever_is_referred_to_is_there, "which is no volume")
def a_volume_is_missing(objects):
    pod(objects)["volumes"] = [v for v in pod(objects)["volumes"] if v["name"] != "tmp"]


@fault(walker.whatever_is_referred_to_is_there, "is mounted nowhere")
def a_volume_is_not_used(objects):
    sync(objects)["volumeMounts"] = [m for m in sync(objects)["volumeMounts"] if m["name"] != "tmp"]


@fault(walker.whatever_is_referred_to_is_there, "where nothing is mounted")
def a_token_lies_elsewhere(objects):
    replace_argument(sync(objects), "--token-file", "/secrets/token")


@fault(walker.whatever_is_referred_to_is_there, "which there is not")
def the_account_is_missing(objects):
    drop(objects, "ServiceAccount")


@fault(walker.the_environment_is_the_namespace_s, "in the namespace of prod")
def prod_follows_dev(objects):
    sync_settings = next(o for o in objects if o["kind"] == "ConfigMap" and o["metadata"]["name"].startswith("mainstay-sync"))
    sync_settings["data"]["ENVIRONMENT"] = "dev"


@fault(walker.the_environment_is_the_namespace_s, "counts requests of another namespace", "overlays/variants/keda")
def the_scaler_counts_another_environment(objects):
    trigger = one(objects, "ScaledObject")["spec"]["triggers"][1]["metadata"]
    trigger["query"] = trigger["query"].replace("mainstay-prod", "mainstay-dev")


@fault(walker.everything_lies_in_the_one_namespace, "lies in default")
def something_lies_elsewhere(objects):
    one(objects, "Service")["metadata"]["namespace"] = "default"


@fault(walker.every_object_has_its_own_name, "stands twice")
def an_object_stands_twice(objects):
    objects.append(copy.deepcopy(one(objects, "Service")))


@fault(walker.a_pod_has_time_to_end, "the pod is killed after")
def a_pod_is_killed_while_it_drains(objects):
    pod(objects)["terminationGracePeriodSeconds"] = 30


@fault(walker.a_pod_has_time_to_end, "a request may take")
def a_request_may_take_longer_than_the_drain(objects):
    replace_argument(server(objects), "--request-timeout-s", "45")


@fault(walker.a_pod_has_time_to_end, "before load balancers have heard")
def the_server_ends_at_once(objects):
    del server(objects)["lifecycle"]


# In the replaced system, `replicas` in base did nothing since overlays said it too.
@fault(walker.there_are_as_many_pods_as_one_place_says, "said in 2 places")
def the_number_of_pods_is_said_twice(objects):
    one(objects, "Deployment")["spec"]["replicas"] = 3


@fault(walker.there_are_as_many_pods_as_one_place_says, "which there is not")
def the_autoscaler_scales_nothing(objects):
    one(objects, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"] = "pred-main"


@fault(walker.there_are_as_many_pods_as_one_place_says, "measures the container")
def the_autoscaler_measures_nothing(objects):
    del server(objects)["resources"]["requests"]["cpu"]


@fault(walker.there_are_as_many_pods_as_one_place_says, "wants from 3 to 2")
def the_autoscaler_wants_less_than_the_least(objects):
    one(objects, "HorizontalPodAutoscaler")["spec"]["maxReplicas"] = 2


@fault(walker.there_are_as_many_pods_as_one_place_says, "takes pods away")
def a_rollout_takes_pods_away_first(objects):
    one(objects, "Deployment")["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] = 1


@fault(walker.disruptions_are_bounded, "0 disruption budgets")
def the_budget_is_of_other_pods(objects):
    one(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"] = {"app": "mainstay"}


@fault(walker.disruptions_are_bounded, "with others than themselves")
def the_pods_are_spread_by_another_label(objects):
    pod(objects)["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"] = {"app": "mainstay"}


@fault(walker.monitors_scrape_what_answers, "which no container has")
def the_monitor_scrapes_another_port(objects):
    one(objects, "PodMonitor")["spec"]["podMetricsEndpoints"][0]["port"] = "metrics"


@fault(walker.monitors_scrape_what_answers, "where there are no metrics")
def the_monitor_scrapes_the_port_of_requests(objects):
    one(objects, "PodMonitor")["spec"]["podMetricsEndpoints"][0]["port"] = "http"


@fault(walker.monitors_scrape_what_answers, "lets Prometheus to the port")
def prometheus_is_kept_out(objects):
    drop(objects, "NetworkPolicy", "metrics")


@fault(walker.monitors_scrape_what_answers, "selects no pod")
def the_monitor_selects_nothing(objects):
    one(objects, "PodMonitor")["spec"]["selector"]["matchLabels"] = {"app": "mainstay"}


@fault(walker.policies_hold_the_pods, "nothing is denied by default")
def nothing_is_denied(objects):
    drop(objects, "NetworkPolicy", "default-deny")


@fault(walker.policies_hold_the_pods, "holds for no pod")
def a_policy_holds_for_nothing(objects):
    one(objects, "NetworkPolicy", "sync")["spec"]["podSelector"] = {"matchLabels": {"app": "mainstay"}}


@fault(walker.policies_hold_the_pods, "which no container has")
def a_policy_opens_another_port(objects):
    one(objects, "NetworkPolicy", "requests")["spec"]["ingress"][0]["ports"][0]["port"] = 8080


@fault(walker.policies_hold_the_pods, "any pod of the cluster reaches the port admin")
def everybody_reaches_the_admin_port(objects):
    one(objects, "NetworkPolicy", "requests")["spec"]["ingress"][0]["ports"].append({"port": "admin", "protocol": "TCP"})


@fault(walker.policies_hold_the_pods, "the machine's own identity")
def the_pods_reach_the_metadata_server(objects):
    del one(objects, "NetworkPolicy", "sync")["spec"]["egress"][2]["to"][0]["ipBlock"]["except"]


@fault(walker.a_mesh_leaves_the_admin_ports_alone, "hands requests on to the admin ports", "overlays/variants/istio")
def istio_hands_requests_to_the_admin_ports(objects):
    del one(objects, "Deployment")["spec"]["template"]["metadata"]["annotations"]["traffic.sidecar.istio.io/excludeInboundPorts"]


@fault(walker.a_mesh_leaves_the_admin_ports_alone, "hands requests on to the admin ports", "overlays/variants/consul")
def consul_hands_requests_to_an_admin_port(objects):
    annotations = one(objects, "Deployment")["spec"]["template"]["metadata"]["annotations"]
    annotations["consul.hashicorp.com/transparent-proxy-exclude-inbound-ports"] = "9090"


@fault(walker.pods_are_restricted, "takes pods that are not restricted")
def the_namespace_takes_any_pod(objects):
    del one(objects, "Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]


@fault(walker.pods_are_restricted, "may run as root")
def the_pod_may_be_root(objects):
    del pod(objects)["securityContext"]["runAsNonRoot"]


@fault(walker.pods_are_restricted, "can do more than it needs")
def the_root_can_be_written(objects):
    server(objects)["securityContext"]["readOnlyRootFilesystem"] = False


@fault(walker.pods_are_restricted, "has a token for the cluster's API")
def the_pod_has_a_token(objects):
    del pod(objects)["automountServiceAccountToken"]


@fault(walker.resources_are_said, "asks for no memory")
def a_container_asks_for_nothing(objects):
    del server(objects)["resources"]


@fault(walker.resources_are_said, "has no limit")
def a_volume_has_no_limit(objects):
    del pod(objects)["volumes"][0]["emptyDir"]["sizeLimit"]


@fault(walker.resources_are_said, "asks the node for")
def the_store_is_larger_than_what_is_asked_for(objects):
    pod(objects)["volumes"][0]["emptyDir"]["sizeLimit"] = "8Gi"


@fault(walker.the_cloud_knows_the_pod, "half there", "overlays/aks/prod")
def the_label_of_azure_is_missing(objects):
    del one(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]["azure.workload.identity/use"]


@fault(walker.the_cloud_knows_the_pod, "half there", "overlays/aks/prod")
def the_client_id_of_azure_is_missing(objects):
    del one(objects, "ServiceAccount")["metadata"]["annotations"]["azure.workload.identity/client-id"]


@fault(walker.the_cloud_knows_the_pod, "gives it its credentials")
def the_identity_of_aws_is_out_of_reach(objects):
    drop(objects, "NetworkPolicy", "identity")


@fault(walker.the_cloud_knows_the_pod, "fetch from nowhere")
def no_artifact_may_be_fetched(objects):
    sync(objects)["args"].remove("--allow-artifacts-from=$(ARTIFACTS)")


@fault(walker.nothing_is_left_to_be_filled_in, "of no registry, or of no version")
def the_image_is_not_named(objects):
    for container in (sync(objects), server(objects)):
        container["image"] = "mainstay"


@fault(walker.nothing_is_left_to_be_filled_in, "of no registry, or of no version")
def the_image_is_the_latest(objects):
    for container in (sync(objects), server(objects)):
        container["image"] = "registry.example.com/mainstay:latest"


@fault(walker.nothing_is_left_to_be_filled_in, "which nobody filled in")
def the_host_name_is_not_filled_in(objects):
    one(objects, "Gateway")["spec"]["listeners"][0]["hostname"] = "mainstay.invalid"


@fault(walker.no_api_is_on_its_way_out, "is of autoscaling/v2beta2")
def an_api_is_on_its_way_out(objects):
    one(objects, "HorizontalPodAutoscaler")["apiVersion"] = "autoscaling/v2beta2"


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name):
    plant, check, says, overlay = FAULTS[name]
    objects = copy.deepcopy(rendering.rendered()[overlay])
    plant(objects)
    found = list(check(objects))
    assert any(says in problem for problem in found), found


def test_each_check_has_a_fault_that_it_finds():
    assert {check for _, check, _, _ in FAULTS.values()} == set(walker.CHECKS)
