# prod.tfvars, with providers that only pretend.

mock_provider "google" {
  source = "./tests/mocks"
}

mock_provider "random" {}

run "variables" {
  module {
    source = "../modules/tfvars"
  }

  variables {
    file = "prod.tfvars"
  }
}

run "prod" {
  command = plan

  variables {
    environment         = run.variables.values.environment
    region              = run.variables.values.region
    zones               = run.variables.values.zones
    regional            = run.variables.values.regional
    network_cidr        = run.variables.values.network_cidr
    kubernetes_version  = run.variables.values.kubernetes_version
    release_channel     = run.variables.values.release_channel
    api_access_cidrs    = run.variables.values.api_access_cidrs
    system_pool         = run.variables.values.system_pool
    workload_pool       = run.variables.values.workload_pool
    workload            = run.variables.values.workload
    deletion_protection = run.variables.values.deletion_protection
  }

  assert {
    condition     = output.kubeconfig_command == "gcloud container clusters get-credentials mainstay-prod --location europe-west3 --project example --internal-ip"
    error_message = "kubeconfig_command is ${output.kubeconfig_command}"
  }

  assert {
    condition     = google_storage_bucket_iam_member.mainstay.member == "principal://iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/example.svc.id.goog/subject/ns/mainstay-prod/sa/mainstay"
    error_message = "the identity is ${google_storage_bucket_iam_member.mainstay.member}"
  }

  assert {
    condition     = output.pods_per_node == 6
    error_message = "a workload node holds ${output.pods_per_node} pods"
  }

  assert {
    condition     = google_container_cluster.this.deletion_protection && !google_storage_bucket.models.force_destroy
    error_message = "the cluster or the models are not protected"
  }

  assert {
    condition     = google_container_node_pool.workload.autoscaling[0].total_min_node_count >= 3 && google_container_node_pool.system.autoscaling[0].total_min_node_count >= 3 && length(google_container_node_pool.workload.node_locations) == 3
    error_message = "a zone has no node"
  }

  assert {
    condition     = google_container_cluster.this.release_channel[0].channel == "STABLE"
    error_message = "prod is among the first to be upgraded"
  }
}

run "named_networks_reach_the_api" {
  command = plan

  variables {
    environment         = run.variables.values.environment
    region              = run.variables.values.region
    zones               = run.variables.values.zones
    regional            = run.variables.values.regional
    network_cidr        = run.variables.values.network_cidr
    kubernetes_version  = run.variables.values.kubernetes_version
    release_channel     = run.variables.values.release_channel
    api_access_cidrs    = ["203.0.113.7/32"]
    system_pool         = run.variables.values.system_pool
    workload_pool       = run.variables.values.workload_pool
    workload            = run.variables.values.workload
    deletion_protection = run.variables.values.deletion_protection
  }

  assert {
    condition     = [for block in google_container_cluster.this.master_authorized_networks_config[0].cidr_blocks : block.cidr_block] == ["203.0.113.7/32"]
    error_message = "others than those named reach the API"
  }

  assert {
    condition     = !endswith(output.kubeconfig_command, "--internal-ip")
    error_message = "kubectl asks the address inside"
  }
}
