# stage.tfvars, with providers that only pretend.

mock_provider "google" {
  source = "./tests/mocks"
}

mock_provider "random" {}

run "variables" {
  module {
    source = "../modules/tfvars"
  }

  variables {
    file = "stage.tfvars"
  }
}

run "stage" {
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
    condition     = output.kubeconfig_command == "gcloud container clusters get-credentials mainstay-stage --location europe-west3 --project example --internal-ip"
    error_message = "kubeconfig_command is ${output.kubeconfig_command}"
  }

  assert {
    condition     = google_storage_bucket_iam_member.mainstay.member == "principal://iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/example.svc.id.goog/subject/ns/mainstay-stage/sa/mainstay"
    error_message = "the identity is ${google_storage_bucket_iam_member.mainstay.member}"
  }

  assert {
    condition     = output.pods_per_node == 2
    error_message = "a workload node holds ${output.pods_per_node} pods"
  }

  assert {
    condition     = google_container_cluster.this.deletion_protection && !google_storage_bucket.models.force_destroy
    error_message = "the cluster or the models are not protected"
  }

  assert {
    condition     = google_container_node_pool.workload.autoscaling[0].total_min_node_count >= 3 && length(google_container_node_pool.workload.node_locations) == 3
    error_message = "a zone has no workload node"
  }
}
