terraform {
  required_version = ">= 1.8"

  required_providers {
    azurerm = {
      source  = "hashicorp/azurerm"
      version = "~> 4.73.0"
    }
  }

  # The rest is in backends/<environment>.hcl, and the account's name is the subscription's own: docs/terraform-azure.md.
  backend "azurerm" {}
}

# The subscription is ARM_SUBSCRIPTION_ID.
provider "azurerm" {
  # bootstrap/ registers what is needed, so that applying needs no right to the whole subscription.
  resource_provider_registrations = "none"
  storage_use_azuread             = true

  features {
    storage {
      # The models' account answers the nodes' network, which is not where Terraform runs.
      data_plane_available = false
    }
  }
}
