terraform {
  required_version = ">= 1.8"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 8.7.0"
    }
    random = {
      source  = "hashicorp/random"
      version = "~> 3.7"
    }
  }

  # The rest is in backends/<environment>.hcl, and the bucket's name is the project's own: docs/terraform-gcp.md.
  backend "gcs" {}
}

# The project is GOOGLE_PROJECT.
provider "google" {
  region = var.region

  default_labels = {
    project     = var.name
    environment = var.environment
    managed-by  = "terraform"
  }
}
