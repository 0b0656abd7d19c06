# dev.tfvars, with providers that only pretend.

mock_provider "google" {
  source = "./tests/mocks"
}

mock_provider "random" {}

run "variables" {
  module {
    source = "../modules/tfvars"
  }

  variables {
    file = "dev.tfvars"
  }
}

# Applied, since what is whose is only known then.
run "dev" {
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
    github_repository   = "example/mainstay"
  }

  assert {
    condition     = output.kubeconfig_command == "gcloud container clusters get-credentials mainstay-dev --location europe-west3-a --project example --internal-ip"
    error_message = "kubeconfig_command is ${output.kubeconfig_command}"
  }

  assert {
    condition     = google_storage_bucket_iam_member.mainstay.member == "principal://iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/example.svc.id.goog/subject/ns/mainstay-dev/sa/mainstay"
    error_message = "the identity is ${google_storage_bucket_iam_member.mainstay.member}"
  }

  assert {
    condition     = output.pods_per_node == 2
    error_message = "a workload node holds ${output.pods_per_node} pods"
  }

  # It reads one bucket and does nothing else.
  assert {
    condition     = google_storage_bucket_iam_member.mainstay.role == "roles/storage.objectViewer" && google_storage_bucket_iam_member.mainstay.bucket == google_storage_bucket.models.name
    error_message = "the pod may do more than read its bucket"
  }

  assert {
    condition     = google_artifact_registry_repository_iam_member.nodes.role == "roles/artifactregistry.reader" && google_artifact_registry_repository_iam_member.nodes.member == google_service_account.nodes.member
    error_message = "nodes may do more than pull"
  }

  assert {
    condition     = endswith(google_storage_bucket_iam_member.publisher[0].member, "/workloadIdentityPools/mainstay-dev-github/subject/repo:example/mainstay:environment:release") && google_artifact_registry_repository_iam_member.publisher[0].member == google_storage_bucket_iam_member.publisher[0].member
    error_message = "another job can publish"
  }

  assert {
    condition     = google_storage_bucket.models.public_access_prevention == "enforced" && google_storage_bucket.models.uniform_bucket_level_access && google_storage_bucket.models.versioning[0].enabled
    error_message = "the bucket may become public, or an overwritten model is lost"
  }

  assert {
    condition     = google_storage_bucket.models.encryption[0].default_kms_key_name == google_kms_crypto_key.this["models"].id && google_container_cluster.this.database_encryption[0].key_name == google_kms_crypto_key.this["cluster"].id
    error_message = "models and secrets are not under keys of their own"
  }

  assert {
    condition     = google_artifact_registry_repository.this.docker_config[0].immutable_tags
    error_message = "a tag can be moved"
  }

  assert {
    condition     = google_container_cluster.this.private_cluster_config[0].enable_private_nodes && google_container_cluster.this.private_cluster_config[0].enable_private_endpoint
    error_message = "a node has a public address, or the API though no network is named"
  }

  assert {
    condition     = length(google_container_cluster.this.master_authorized_networks_config) == 1 && length(google_container_cluster.this.master_authorized_networks_config[0].cidr_blocks) == 0
    error_message = "a network is let in that nobody named"
  }

  assert {
    condition     = google_container_cluster.this.datapath_provider == "ADVANCED_DATAPATH"
    error_message = "nobody enforces network policies"
  }

  assert {
    condition     = alltrue([for pool in [google_container_node_pool.system, google_container_node_pool.workload] : pool.node_config[0].service_account == google_service_account.nodes.email && pool.node_config[0].workload_metadata_config[0].mode == "GKE_METADATA"])
    error_message = "a pod can be its node"
  }
}

run "the_whole_internet_is_no_network_to_let_in" {
  command = plan

  variables {
    environment         = run.variables.values.environment
    region              = run.variables.values.region
    zones               = run.variables.values.zones
    regional            = run.variables.values.regional
    network_cidr        = run.variables.values.network_cidr
    kubernetes_version  = run.variables.values.kubernetes_version
    release_channel     = run.variables.values.release_channel
    api_access_cidrs    = ["0.0.0.0/0"]
    system_pool         = run.variables.values.system_pool
    workload_pool       = run.variables.values.workload_pool
    workload            = run.variables.values.workload
    deletion_protection = run.variables.values.deletion_protection
  }

  expect_failures = [var.api_access_cidrs]
}

run "nobody_publishes_unless_a_repository_is_named" {
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
    condition     = length(google_storage_bucket_iam_member.publisher) + length(google_artifact_registry_repository_iam_member.publisher) == 0
    error_message = "there is a publisher for nobody"
  }
}
