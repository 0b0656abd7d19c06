# Where models lie, who reads them and who writes them.

resource "google_storage_bucket" "models" {
  #checkov:skip=CKV_GCP_62:who read what is in the audit log, which google_project_iam_audit_config switches on
  name                        = "${local.name}-models-${local.number}"
  location                    = var.region
  force_destroy               = !var.deletion_protection
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"

  versioning {
    enabled = true
  }

  encryption {
    default_kms_key_name = google_kms_crypto_key.this["models"].id
  }

  soft_delete_policy {
    retention_duration_seconds = 604800
  }

  # A model that was overwritten or deleted can be had back for this long. What is current never expires.
  lifecycle_rule {
    action {
      type = "Delete"
    }

    condition {
      with_state                 = "ARCHIVED"
      days_since_noncurrent_time = 90
    }
  }

  lifecycle_rule {
    action {
      type = "AbortIncompleteMultipartUpload"
    }

    condition {
      age = 7
    }
  }

  depends_on = [google_kms_crypto_key_iam_member.models]
}

# Reads and writes of objects are logged, whoever does them.
resource "google_project_iam_audit_config" "models" {
  project = local.project
  service = "storage.googleapis.com"

  audit_log_config {
    log_type = "DATA_READ"
  }

  audit_log_config {
    log_type = "DATA_WRITE"
  }
}

locals {
  pools = "principal://iam.googleapis.com/projects/${local.number}/locations/global/workloadIdentityPools"

  # Mainstay's pods: one service account, with no Google service account and no key between.
  pod_subject = "ns/${local.namespace}/sa/${var.service_account}"
  pod         = "${local.pools}/${local.project}.svc.id.goog/subject/${local.pod_subject}"

  # Who publishes: a job of the repository's workflows, in its protected environment and nowhere else.
  publisher = var.github_repository == null ? null : "${local.pools}/${local.name}-github/subject/repo:${var.github_repository}:environment:${var.github_environment}"
}

resource "google_storage_bucket_iam_member" "mainstay" {
  bucket = google_storage_bucket.models.name
  role   = "roles/storage.objectViewer"
  member = local.pod

  # The pool of the project's clusters comes with the first of them.
  depends_on = [google_container_cluster.this]
}

resource "google_storage_bucket_iam_member" "publisher" {
  count = var.github_repository == null ? 0 : 1

  bucket = google_storage_bucket.models.name
  role   = "roles/storage.objectUser"
  member = local.publisher
}

# The images of this environment. A digest is the same in every registry: promotion copies it, and what dev may push, prod
# does not pull.
resource "google_artifact_registry_repository" "this" {
  #checkov:skip=CKV_GCP_84:images hold no secret and are named by digest; Google's key encrypts them at rest
  repository_id          = var.repository
  location               = var.region
  format                 = "DOCKER"
  description            = "Images of ${local.name}"
  cleanup_policy_dry_run = false

  docker_config {
    immutable_tags = true
  }

  vulnerability_scanning_config {
    enablement_config = "INHERITED"
  }

  cleanup_policies {
    id     = "unfinished-pushes"
    action = "DELETE"

    condition {
      tag_state  = "UNTAGGED"
      older_than = "1209600s"
    }
  }
}

resource "google_artifact_registry_repository_iam_member" "nodes" {
  repository = google_artifact_registry_repository.this.name
  location   = google_artifact_registry_repository.this.location
  role       = "roles/artifactregistry.reader"
  member     = google_service_account.nodes.member
}

resource "google_artifact_registry_repository_iam_member" "publisher" {
  count = var.github_repository == null ? 0 : 1

  repository = google_artifact_registry_repository.this.name
  location   = google_artifact_registry_repository.this.location
  role       = "roles/artifactregistry.writer"
  member     = local.publisher
}
