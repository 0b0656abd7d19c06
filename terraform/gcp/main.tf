data "google_project" "this" {}

locals {
  name      = "${var.name}-${var.environment}"
  project   = data.google_project.this.project_id
  number    = data.google_project.this.number
  namespace = coalesce(var.namespace, "mainstay-${var.environment}")
}

module "guard" {
  source = "../modules/guard"

  environment         = var.environment
  deletion_protection = var.deletion_protection
  protects = [
    google_artifact_registry_repository_iam_member.nodes.id,
    google_artifact_registry_repository_iam_member.publisher[*].id,
    google_compute_router_nat.this.id,
    google_compute_subnetwork.proxies.id,
    google_container_node_pool.system.id,
    google_container_node_pool.workload.id,
    google_project_iam_audit_config.models.id,
    google_storage_bucket_iam_member.mainstay.id,
    google_storage_bucket_iam_member.publisher[*].id,
  ]
}
