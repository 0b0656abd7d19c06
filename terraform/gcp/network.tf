# Nodes have private addresses alone and one way out, through NAT. No rule lets anybody in: what is public is load balancers.

locals {
  # Of 10.0.0.0/16: nodes 10.0.0.0/20 (4092), the region's proxies 10.0.64.0/23. Pods have 10.128.0.0/17: a node takes a /25
  # for its 64 pods, so that there are addresses for 256 nodes.
  nodes_cidr    = cidrsubnet(var.network_cidr, 4, 0)
  proxies_cidr  = cidrsubnet(var.network_cidr, 7, 32)
  pods_cidr     = "10.128.0.0/17"
  services_cidr = "10.2.0.0/20"
}

resource "google_compute_network" "this" {
  #checkov:skip=CKV2_GCP_18:without a rule nobody is let in, and GKE makes those it needs
  name                    = local.name
  auto_create_subnetworks = false
  routing_mode            = "REGIONAL"
}

resource "google_compute_subnetwork" "nodes" {
  name                     = "${local.name}-nodes"
  region                   = var.region
  network                  = google_compute_network.this.id
  ip_cidr_range            = local.nodes_cidr
  private_ip_google_access = true

  secondary_ip_range {
    range_name    = "pods"
    ip_cidr_range = local.pods_cidr
  }

  secondary_ip_range {
    range_name    = "services"
    ip_cidr_range = local.services_cidr
  }

  log_config {
    aggregation_interval = "INTERVAL_10_MIN"
    flow_sampling        = 0.1
    metadata             = "INCLUDE_ALL_METADATA"
  }
}

# From here the region's load balancers ask the pods.
resource "google_compute_subnetwork" "proxies" {
  #checkov:skip=CKV_GCP_26:a proxies' subnet has no flow logs; its load balancers log by themselves
  #checkov:skip=CKV_GCP_74:nothing of it asks for anything
  #checkov:skip=CKV_GCP_76:likewise
  name          = "${local.name}-proxies"
  region        = var.region
  network       = google_compute_network.this.id
  ip_cidr_range = local.proxies_cidr
  purpose       = "REGIONAL_MANAGED_PROXY"
  role          = "ACTIVE"
}

resource "google_compute_router" "this" {
  name    = local.name
  region  = var.region
  network = google_compute_network.this.id
}

resource "google_compute_address" "nat" {
  name   = "${local.name}-nat"
  region = var.region
}

resource "google_compute_router_nat" "this" {
  name                                = local.name
  region                              = var.region
  router                              = google_compute_router.this.name
  nat_ip_allocate_option              = "MANUAL_ONLY"
  nat_ips                             = [google_compute_address.nat.self_link]
  source_subnetwork_ip_ranges_to_nat  = "LIST_OF_SUBNETWORKS"
  enable_dynamic_port_allocation      = true
  enable_endpoint_independent_mapping = false
  min_ports_per_vm                    = 64
  max_ports_per_vm                    = 4096

  subnetwork {
    name                    = google_compute_subnetwork.nodes.id
    source_ip_ranges_to_nat = ["ALL_IP_RANGES"]
  }

  log_config {
    enable = true
    filter = "ERRORS_ONLY"
  }
}
