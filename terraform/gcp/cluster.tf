locals {
  # What Google sells, for the machines that fit.
  machines = {
    e2-standard-2  = { cpus = 2, memory_mib = 8192 }
    e2-standard-4  = { cpus = 4, memory_mib = 16384 }
    e2-standard-8  = { cpus = 8, memory_mib = 32768 }
    n2d-standard-4 = { cpus = 4, memory_mib = 16384 }
    n2d-standard-8 = { cpus = 8, memory_mib = 32768 }
  }
  machine           = local.machines[var.workload_pool.machine_type]
  pods_per_node_max = 64

  # What kubelet keeps: of processors 6 % of the first, 1 % of the second, 0.5 % of two more, 0.25 % of the rest; of memory a
  # quarter of the first 4 GiB, a fifth of four more, a tenth of eight more, 6 % of the rest, and 100 MiB below which it
  # evicts. Some 3 % of the memory that is sold never reaches Linux.
  cpu_kept = 60 + (local.machine.cpus >= 2 ? 10 : 0) + 5 * min(max(local.machine.cpus - 2, 0), 2) + 2.5 * max(local.machine.cpus - 4, 0)
  memory_kept = (
    0.25 * min(local.machine.memory_mib, 4096) +
    0.20 * min(max(local.machine.memory_mib - 4096, 0), 4096) +
    0.10 * min(max(local.machine.memory_mib - 8192, 0), 8192) +
    0.06 * max(local.machine.memory_mib - 16384, 0) + 100
  )
}

module "fit" {
  source = "../modules/fit"

  node = {
    cpu_millicores = 1000 * local.machine.cpus - local.cpu_kept
    memory_mib     = floor(local.machine.memory_mib * 0.97 - local.memory_kept)
    pods           = local.pods_per_node_max
  }
  # anetd, netd, gke-metadata-server, fluentbit-gke, gke-metrics-agent, collector, pdcsi-node, and two of the operator's.
  daemons = {
    cpu_millicores = 500
    memory_mib     = 900
    pods           = 9
  }
  workload  = var.workload
  nodes_min = var.workload_pool.min
  nodes_max = var.workload_pool.max
  zones     = length(var.zones)
}

# Who the nodes are: they write logs and metrics, and pull from one repository.
resource "google_service_account" "nodes" {
  account_id   = "${local.name}-nodes"
  display_name = "Nodes of ${local.name}"
}

resource "google_project_iam_member" "nodes" {
  project = local.project
  role    = "roles/container.defaultNodeServiceAccount"
  member  = google_service_account.nodes.member
}

resource "google_container_cluster" "this" {
  #checkov:skip=CKV_GCP_12:Dataplane V2 enforces network policies; this is the switch of what was before it
  #checkov:skip=CKV_GCP_65:a Google group for RBAC needs a domain; roles are IAM's
  #checkov:skip=CKV_GCP_66:which images may run is Argo CD's and the overlay's digest to say
  #checkov:skip=CKV_GCP_69:the pool that node_config is about is removed at once; those below have it
  #checkov:skip=CKV_GCP_61:Dataplane V2 logs connections itself; the subnet has flow logs
  name                     = local.name
  location                 = var.regional ? var.region : var.zones[0]
  node_locations           = var.regional ? var.zones : slice(var.zones, 1, length(var.zones))
  network                  = google_compute_network.this.id
  subnetwork               = google_compute_subnetwork.nodes.id
  min_master_version       = var.kubernetes_version
  deletion_protection      = var.deletion_protection
  remove_default_node_pool = true
  initial_node_count       = 1
  datapath_provider        = "ADVANCED_DATAPATH"
  networking_mode          = "VPC_NATIVE"
  enable_shielded_nodes    = true
  enable_legacy_abac       = false

  resource_labels = {
    project     = var.name
    environment = var.environment
  }

  release_channel {
    channel = var.release_channel
  }

  ip_allocation_policy {
    cluster_secondary_range_name  = "pods"
    services_secondary_range_name = "services"
  }

  private_cluster_config {
    enable_private_nodes    = true
    enable_private_endpoint = length(var.api_access_cidrs) == 0
  }

  # Without a network in it, only the cluster's own reaches the API.
  master_authorized_networks_config {
    gcp_public_cidrs_access_enabled = false

    dynamic "cidr_blocks" {
      for_each = var.api_access_cidrs

      content {
        cidr_block   = cidr_blocks.value
        display_name = "api_access_cidrs"
      }
    }
  }

  master_auth {
    client_certificate_config {
      issue_client_certificate = false
    }
  }

  # Nobody unknown, but for the questions of health checks.
  anonymous_authentication_config {
    mode = "LIMITED"
  }

  rbac_binding_config {
    enable_insecure_binding_system_authenticated   = false
    enable_insecure_binding_system_unauthenticated = false
  }

  workload_identity_config {
    workload_pool = "${local.project}.svc.id.goog"
  }

  database_encryption {
    state    = "ENCRYPTED"
    key_name = google_kms_crypto_key.this["cluster"].id
  }

  # The pool that is made first and removed at once.
  node_config {
    machine_type    = var.system_pool.machine_type
    service_account = google_service_account.nodes.email
    oauth_scopes    = ["https://www.googleapis.com/auth/cloud-platform"]

    shielded_instance_config {
      enable_secure_boot          = true
      enable_integrity_monitoring = true
    }

    workload_metadata_config {
      mode = "GKE_METADATA"
    }
  }

  addons_config {
    http_load_balancing {
      disabled = false
    }

    horizontal_pod_autoscaling {
      disabled = false
    }

    gce_persistent_disk_csi_driver_config {
      enabled = true
    }
  }

  gateway_api_config {
    channel = "CHANNEL_STANDARD"
  }

  cluster_autoscaling {
    enabled             = false
    autoscaling_profile = "OPTIMIZE_UTILIZATION"
  }

  vertical_pod_autoscaling {
    enabled = true
  }

  cost_management_config {
    enabled = true
  }

  security_posture_config {
    mode               = "BASIC"
    vulnerability_mode = "VULNERABILITY_BASIC"
  }

  logging_config {
    enable_components = ["SYSTEM_COMPONENTS", "WORKLOADS", "APISERVER", "CONTROLLER_MANAGER", "SCHEDULER"]
  }

  # Prometheus is the operator's own (k8s/components/monitoring).
  monitoring_config {
    enable_components = ["SYSTEM_COMPONENTS"]

    managed_prometheus {
      enabled = false
    }
  }

  maintenance_policy {
    recurring_window {
      start_time = "2026-01-06T02:00:00Z"
      end_time   = "2026-01-06T06:00:00Z"
      recurrence = "FREQ=WEEKLY;BYDAY=TU,WE,TH,FR"
    }
  }

  lifecycle {
    ignore_changes = [node_config, initial_node_count]
  }

  depends_on = [
    google_compute_router_nat.this,
    google_kms_crypto_key_iam_member.cluster,
    google_project_iam_member.nodes,
  ]
}

resource "google_container_node_pool" "system" {
  name              = "system"
  cluster           = google_container_cluster.this.id
  node_locations    = var.zones
  max_pods_per_node = local.pods_per_node_max

  autoscaling {
    total_min_node_count = var.system_pool.min
    total_max_node_count = var.system_pool.max
    location_policy      = "BALANCED"
  }

  management {
    auto_repair  = true
    auto_upgrade = true
  }

  upgrade_settings {
    strategy        = "SURGE"
    max_surge       = 1
    max_unavailable = 0
  }

  network_config {
    enable_private_nodes = true
  }

  node_config {
    machine_type    = var.system_pool.machine_type
    image_type      = "COS_CONTAINERD"
    disk_type       = "pd-balanced"
    disk_size_gb    = 50
    service_account = google_service_account.nodes.email
    oauth_scopes    = ["https://www.googleapis.com/auth/cloud-platform"]
    labels          = { "mainstay/pool" = "system" }
    metadata        = { disable-legacy-endpoints = "true" }

    # GKE's own pods tolerate it and nobody else's do.
    taint {
      key    = "components.gke.io/gke-managed-components"
      value  = "true"
      effect = "NO_SCHEDULE"
    }

    shielded_instance_config {
      enable_secure_boot          = true
      enable_integrity_monitoring = true
    }

    workload_metadata_config {
      mode = "GKE_METADATA"
    }

    kubelet_config {
      insecure_kubelet_readonly_port_enabled = "FALSE"
    }
  }
}

resource "google_container_node_pool" "workload" {
  name              = "workload"
  cluster           = google_container_cluster.this.id
  node_locations    = var.zones
  max_pods_per_node = local.pods_per_node_max

  autoscaling {
    total_min_node_count = var.workload_pool.min
    total_max_node_count = var.workload_pool.max
    location_policy      = "BALANCED"
  }

  management {
    auto_repair  = true
    auto_upgrade = true
  }

  upgrade_settings {
    strategy        = "SURGE"
    max_surge       = 1
    max_unavailable = 0
  }

  network_config {
    enable_private_nodes = true
  }

  node_config {
    machine_type    = var.workload_pool.machine_type
    image_type      = "COS_CONTAINERD"
    disk_type       = "pd-balanced"
    disk_size_gb    = 50
    service_account = google_service_account.nodes.email
    oauth_scopes    = ["https://www.googleapis.com/auth/cloud-platform"]
    labels          = { "mainstay/pool" = "workload" }
    metadata        = { disable-legacy-endpoints = "true" }

    shielded_instance_config {
      enable_secure_boot          = true
      enable_integrity_monitoring = true
    }

    workload_metadata_config {
      mode = "GKE_METADATA"
    }

    kubelet_config {
      insecure_kubelet_readonly_port_enabled = "FALSE"
    }
  }
}
