terraform {
  # 1.10 is the first that keeps the state's lock in the bucket itself (use_lockfile in backends/).
  required_version = ">= 1.10"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.66.0"
    }
  }

  # The rest is in backends/<environment>.hcl, and the bucket's name is the account's own: docs/terraform-aws.md.
  backend "s3" {}
}

provider "aws" {
  region = var.region

  default_tags {
    tags = {
      project     = var.name
      environment = var.environment
      managed-by  = "terraform"
    }
  }
}
