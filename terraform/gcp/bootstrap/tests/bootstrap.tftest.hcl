mock_provider "google" {
  mock_data "google_project" {
    defaults = {
      project_id = "example"
      number     = "123456789012"
    }
  }

  mock_resource "google_iam_workload_identity_pool" {
    defaults = {
      name = "projects/123456789012/locations/global/workloadIdentityPools/mainstay-prod-github"
    }
    override_during = plan
  }
}

variables {
  environment       = "prod"
  github_repository = "example/mainstay"
}

run "prod" {
  # The bucket of a state is never destroyed, not even here: so nothing is applied.
  command = plan

  assert {
    condition     = google_service_account_iam_member.workflow["apply"].member == "principal://iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/mainstay-prod-github/subject/repo:example/mainstay:environment:infrastructure-gcp-prod"
    error_message = "a job outside the protected environment can apply"
  }

  assert {
    condition     = endswith(google_service_account_iam_member.workflow["plan"].member, "/subject/repo:example/mainstay:environment:infrastructure-plan")
    error_message = "a job outside its environment can plan"
  }

  assert {
    condition     = google_iam_workload_identity_pool_provider.github[0].attribute_condition == "assertion.repository == 'example/mainstay'"
    error_message = "tokens of other repositories are taken"
  }

  # Who plans only looks.
  assert {
    condition     = toset([for grant in google_project_iam_member.plan : grant.role]) == toset(["roles/viewer", "roles/iam.securityReviewer"]) && google_storage_bucket_iam_member.plan[0].role == "roles/storage.objectViewer"
    error_message = "the planning account may change something"
  }

  # Who applies gives the nodes their role, and nobody any other.
  assert {
    condition     = !contains([for grant in google_project_iam_member.apply : grant.role], "roles/owner") && strcontains(google_project_iam_member.apply_grants[0].condition[0].expression, "hasOnly(['roles/container.defaultNodeServiceAccount'])")
    error_message = "the applying account may give away any role"
  }

  assert {
    condition     = google_storage_bucket.state.public_access_prevention == "enforced" && google_storage_bucket.state.versioning[0].enabled
    error_message = "a state may become public, or is lost when overwritten"
  }
}

run "no_workflow_gets_an_account_unless_a_repository_is_named" {
  command = plan

  variables {
    github_repository = null
  }

  assert {
    condition     = length(google_service_account.workflow) + length(google_iam_workload_identity_pool.github) == 0
    error_message = "there is an account for nobody"
  }
}
