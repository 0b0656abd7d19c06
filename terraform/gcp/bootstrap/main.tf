# What must be there before the environment's own Terraform can run, applied once by an administrator: where its state lies,
# the project's services, who plans and who applies. docs/terraform-gcp.md says how.

terraform {
  required_version = ">= 1.8"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 8.7.0"
    }
  }

  backend "gcs" {}
}

variable "environment" {
  description = "dev, stage or prod."
  type        = string

  validation {
    condition     = contains(["dev", "stage", "prod"], var.environment)
    error_message = "environment must be dev, stage or prod"
  }
}

variable "name" {
  description = "What every name begins with, as in the environment's own variables."
  type        = string
  default     = "mainstay"
}

variable "region" {
  description = "Where the state lies."
  type        = string
  default     = "europe-west3"
}

variable "github_repository" {
  description = "OWNER/NAME of the repository whose workflows plan, apply and publish; null: none does."
  type        = string
  default     = null

  validation {
    condition     = var.github_repository == null || can(regex("^[A-Za-z0-9-]+/[A-Za-z0-9._-]+$", var.github_repository))
    error_message = "github_repository must be OWNER/NAME"
  }
}

variable "github_environment" {
  description = "Protected GitHub environment of the applying job; null: infrastructure-gcp-<environment>."
  type        = string
  default     = null
}

variable "github_plan_environment" {
  description = "GitHub environment of the planning job."
  type        = string
  default     = "infrastructure-plan"
}

provider "google" {
  region = var.region

  default_labels = {
    project     = var.name
    environment = var.environment
    managed-by  = "terraform-bootstrap"
  }
}

data "google_project" "this" {}

locals {
  name       = "${var.name}-${var.environment}"
  project    = data.google_project.this.project_id
  number     = data.google_project.this.number
  workflows  = var.github_repository == null ? 0 : 1
  repository = coalesce(var.github_repository, "-")

  subjects = {
    plan  = "repo:${local.repository}:environment:${var.github_plan_environment}"
    apply = "repo:${local.repository}:environment:${coalesce(var.github_environment, "infrastructure-gcp-${var.environment}")}"
  }
}

resource "google_project_service" "this" {
  for_each = toset([
    "artifactregistry.googleapis.com",
    "cloudkms.googleapis.com",
    "cloudresourcemanager.googleapis.com",
    "compute.googleapis.com",
    "container.googleapis.com",
    # Scans what is pushed to the registry.
    "containerscanning.googleapis.com",
    "iam.googleapis.com",
    "iamcredentials.googleapis.com",
    "logging.googleapis.com",
    "monitoring.googleapis.com",
    "storage.googleapis.com",
    "sts.googleapis.com",
  ])

  service = each.key
  # Others of the project may use it.
  disable_on_destroy = false
}

resource "google_storage_bucket" "state" {
  #checkov:skip=CKV_GCP_62:who read a state is in the audit log of the project, which the environment switches on
  name                        = "${local.name}-tfstate-${local.number}"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"

  versioning {
    enabled = true
  }

  lifecycle_rule {
    action {
      type = "Delete"
    }

    condition {
      with_state                 = "ARCHIVED"
      days_since_noncurrent_time = 365
    }
  }

  lifecycle {
    prevent_destroy = true
  }

  depends_on = [google_project_service.this]
}

resource "google_iam_workload_identity_pool" "github" {
  count = local.workflows

  workload_identity_pool_id = "${local.name}-github"
  display_name              = "GitHub for ${local.name}"

  depends_on = [google_project_service.this]
}

# Tokens of this one repository are taken at all; which job may do what is said where it is let in.
resource "google_iam_workload_identity_pool_provider" "github" {
  #checkov:skip=CKV_GCP_125:the condition names one repository, and each grant the whole subject
  count = local.workflows

  workload_identity_pool_id          = google_iam_workload_identity_pool.github[0].workload_identity_pool_id
  workload_identity_pool_provider_id = "github"
  attribute_condition                = "assertion.repository == '${local.repository}'"
  attribute_mapping = {
    "google.subject" = "assertion.sub"
  }

  oidc {
    issuer_uri = "https://token.actions.githubusercontent.com"
  }
}

resource "google_service_account" "workflow" {
  for_each = local.workflows == 1 ? local.subjects : {}

  account_id   = "${local.name}-${each.key}"
  display_name = "GitHub's ${each.key} of ${local.name}"
}

resource "google_service_account_iam_member" "workflow" {
  for_each = google_service_account.workflow

  service_account_id = each.value.name
  role               = "roles/iam.workloadIdentityUser"
  member             = "principal://iam.googleapis.com/${google_iam_workload_identity_pool.github[0].name}/subject/${local.subjects[each.key]}"
}

# Plans without a lock (-lock=false): it writes nothing anywhere.
resource "google_project_iam_member" "plan" {
  for_each = local.workflows == 1 ? toset(["roles/viewer", "roles/iam.securityReviewer"]) : toset([])

  project = local.project
  role    = each.key
  member  = google_service_account.workflow["plan"].member
}

resource "google_storage_bucket_iam_member" "plan" {
  count = local.workflows

  bucket = google_storage_bucket.state.name
  role   = "roles/storage.objectViewer"
  member = google_service_account.workflow["plan"].member
}

resource "google_project_iam_member" "apply" {
  #checkov:skip=CKV_GCP_42:its one role over the project's roles is conditioned below
  #checkov:skip=CKV_GCP_49:it makes the nodes' service account and lends it to them
  #checkov:skip=CKV_GCP_41:likewise
  for_each = local.workflows == 1 ? toset([
    "roles/artifactregistry.admin",
    "roles/cloudkms.admin",
    "roles/compute.networkAdmin",
    "roles/container.admin",
    "roles/iam.serviceAccountAdmin",
    "roles/iam.serviceAccountUser",
    "roles/storage.admin",
    "roles/viewer",
  ]) : toset([])

  project = local.project
  role    = each.key
  member  = google_service_account.workflow["apply"].member
}

# It gives nodes their role, and nobody any other. The audit configuration is part of the project's policy too.
resource "google_project_iam_member" "apply_grants" {
  count = local.workflows

  project = local.project
  role    = "roles/resourcemanager.projectIamAdmin"
  member  = google_service_account.workflow["apply"].member

  condition {
    title      = "the nodes' role alone"
    expression = "api.getAttribute('iam.googleapis.com/modifiedGrantsByRole', []).hasOnly(['roles/container.defaultNodeServiceAccount'])"
  }
}

output "state_bucket" {
  description = "Bucket of the state: terraform init -backend-config=backends/<environment>.hcl -backend-config=bucket=THIS."
  value       = google_storage_bucket.state.name
}

output "workload_identity_provider" {
  description = "For google-github-actions/auth; null without github_repository."
  value       = one(google_iam_workload_identity_pool_provider.github[*].name)
}

output "plan_service_account" {
  description = "Service account of the workflow that plans; null without github_repository."
  value       = try(google_service_account.workflow["plan"].email, null)
}

output "apply_service_account" {
  description = "Service account of the workflow that applies and destroys; null without github_repository."
  value       = try(google_service_account.workflow["apply"].email, null)
}
