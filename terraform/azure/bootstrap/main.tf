# What must be there before the environment's own Terraform can run, applied once by an administrator: where its state lies,
# its resource group, the subscription's services, who plans and who applies. docs/terraform-azure.md says how.

terraform {
  required_version = ">= 1.8"

  required_providers {
    azurerm = {
      source  = "hashicorp/azurerm"
      version = "~> 4.73.0"
    }
  }

  backend "azurerm" {}
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

variable "location" {
  description = "Where the state and the environment's resource group lie."
  type        = string
  default     = "germanywestcentral"
}

variable "github_repository" {
  description = "OWNER/NAME of the repository whose workflows plan and apply; null: none does."
  type        = string
  default     = null

  validation {
    condition     = var.github_repository == null || can(regex("^[A-Za-z0-9-]+/[A-Za-z0-9._-]+$", var.github_repository))
    error_message = "github_repository must be OWNER/NAME"
  }
}

variable "github_environment" {
  description = "Protected GitHub environment of the applying job; null: infrastructure-azure-<environment>."
  type        = string
  default     = null
}

variable "github_plan_environment" {
  description = "GitHub environment of the planning job."
  type        = string
  default     = "infrastructure-plan"
}

variable "scan_images" {
  description = "Whether Defender for Containers scans the subscription's registries and watches its clusters: by the processor, and for the whole subscription."
  type        = bool
  default     = true
}

# The subscription is ARM_SUBSCRIPTION_ID.
provider "azurerm" {
  resource_provider_registrations = "none"
  resource_providers_to_register = [
    "Microsoft.Authorization",
    "Microsoft.ContainerRegistry",
    "Microsoft.ContainerService",
    "Microsoft.Insights",
    "Microsoft.ManagedIdentity",
    "Microsoft.Network",
    "Microsoft.OperationalInsights",
    "Microsoft.OperationsManagement",
    "Microsoft.PolicyInsights",
    "Microsoft.Security",
    "Microsoft.ServiceNetworking",
    "Microsoft.Storage",
  ]
  storage_use_azuread = true

  features {}
}

data "azurerm_client_config" "current" {}

locals {
  name         = "${var.name}-${var.environment}"
  subscription = "/subscriptions/${data.azurerm_client_config.current.subscription_id}"
  account      = "${var.name}${var.environment}s${substr(sha256(data.azurerm_client_config.current.subscription_id), 0, 8)}"
  workflows    = var.github_repository == null ? 0 : 1
  repository   = coalesce(var.github_repository, "-")

  subjects = {
    plan  = "repo:${local.repository}:environment:${var.github_plan_environment}"
    apply = "repo:${local.repository}:environment:${coalesce(var.github_environment, "infrastructure-azure-${var.environment}")}"
  }

  tags = {
    project     = var.name
    environment = var.environment
    managed-by  = "terraform-bootstrap"
  }
}

# Everything of the environment is in here, and applying has rights in here.
resource "azurerm_resource_group" "this" {
  name     = local.name
  location = var.location
  tags     = local.tags
}

resource "azurerm_resource_group" "state" {
  name     = "${local.name}-tfstate"
  location = var.location
  tags     = local.tags
}

resource "azurerm_storage_account" "state" {
  #checkov:skip=CKV_AZURE_59:who applies comes from anywhere, a hosted runner too; a role and a token are asked of everybody
  #checkov:skip=CKV_AZURE_35:likewise
  #checkov:skip=CKV_AZURE_33:there are no queues
  #checkov:skip=CKV_AZURE_206:ZRS keeps three copies in three zones, and a state can be imported again
  #checkov:skip=CKV2_AZURE_1:so that a lost key cannot take the state with it; a state here holds no secret
  #checkov:skip=CKV2_AZURE_33:likewise
  #checkov:skip=CKV2_AZURE_21:the subscription's activity log says who changed it
  name                              = local.account
  location                          = azurerm_resource_group.state.location
  resource_group_name               = azurerm_resource_group.state.name
  account_kind                      = "StorageV2"
  account_tier                      = "Standard"
  account_replication_type          = "ZRS"
  https_traffic_only_enabled        = true
  min_tls_version                   = "TLS1_2"
  allow_nested_items_to_be_public   = false
  shared_access_key_enabled         = false
  local_user_enabled                = false
  default_to_oauth_authentication   = true
  cross_tenant_replication_enabled  = false
  infrastructure_encryption_enabled = true
  tags                              = local.tags

  blob_properties {
    versioning_enabled = true

    delete_retention_policy {
      days = 90
    }

    container_delete_retention_policy {
      days = 90
    }
  }

  sas_policy {
    expiration_period = "00.01:00:00"
  }

  lifecycle {
    prevent_destroy = true
  }
}

resource "azurerm_storage_container" "state" {
  #checkov:skip=CKV2_AZURE_21:as for the account
  name                  = "tfstate"
  storage_account_id    = azurerm_storage_account.state.id
  container_access_type = "private"
}

resource "azurerm_role_assignment" "administrator_state" {
  scope                = azurerm_storage_container.state.id
  role_definition_name = "Storage Blob Data Contributor"
  principal_id         = data.azurerm_client_config.current.object_id
}

resource "azurerm_security_center_subscription_pricing" "containers" {
  count = var.scan_images ? 1 : 0

  resource_type = "Containers"
  tier          = "Standard"
}

resource "azurerm_user_assigned_identity" "workflow" {
  for_each = local.workflows == 1 ? local.subjects : {}

  name                = "${local.name}-${each.key}"
  location            = azurerm_resource_group.state.location
  resource_group_name = azurerm_resource_group.state.name
  tags                = local.tags
}

resource "azurerm_federated_identity_credential" "workflow" {
  for_each = azurerm_user_assigned_identity.workflow

  name                      = "github"
  user_assigned_identity_id = each.value.id
  issuer                    = "https://token.actions.githubusercontent.com"
  audience                  = ["api://AzureADTokenExchange"]
  subject                   = local.subjects[each.key]
}

# Plans without a lock (-lock=false): it writes nothing anywhere.
resource "azurerm_role_assignment" "plan" {
  count = local.workflows

  scope                = azurerm_resource_group.this.id
  role_definition_name = "Reader"
  principal_id         = azurerm_user_assigned_identity.workflow["plan"].principal_id
  principal_type       = "ServicePrincipal"
}

resource "azurerm_role_assignment" "plan_state" {
  count = local.workflows

  scope                = azurerm_storage_container.state.id
  role_definition_name = "Storage Blob Data Reader"
  principal_id         = azurerm_user_assigned_identity.workflow["plan"].principal_id
  principal_type       = "ServicePrincipal"
}

resource "azurerm_role_assignment" "apply" {
  count = local.workflows

  scope                = azurerm_resource_group.this.id
  role_definition_name = "Contributor"
  principal_id         = azurerm_user_assigned_identity.workflow["apply"].principal_id
  principal_type       = "ServicePrincipal"
}

resource "azurerm_role_assignment" "apply_state" {
  count = local.workflows

  scope                = azurerm_storage_container.state.id
  role_definition_name = "Storage Blob Data Contributor"
  principal_id         = azurerm_user_assigned_identity.workflow["apply"].principal_id
  principal_type       = "ServicePrincipal"
}

locals {
  # The roles that the environment gives, and no other: Owner is none of them.
  granted_roles = {
    "AcrPull"                                     = "7f951dda-4ed3-4680-a7ca-43fe172d538d"
    "AcrPush"                                     = "8311e382-0749-4cb8-b61a-304f252e45ec"
    "AppGw for Containers Configuration Manager"  = "fbc52c3f-28ad-4303-a892-8a056630b8f1"
    "Azure Kubernetes Service RBAC Cluster Admin" = "b1ff04bb-8a4e-4dc4-8eb5-8693973ce19b"
    "Managed Identity Operator"                   = "f1a07417-d97a-45cb-824c-7a7467783830"
    "Network Contributor"                         = "4d97b98b-1d4f-4787-a291-c67834d212e7"
    "Reader"                                      = "acdd72a7-3385-48ef-bd42-f606fba81ae7"
    "Storage Blob Data Contributor"               = "ba92f5b4-2d11-453d-a403-e96b0029c9fe"
    "Storage Blob Data Reader"                    = "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1"
  }
  granted_role_ids = join(", ", values(local.granted_roles))
}

# AKS makes the nodes' resource group by itself, and roles are given there too: hence the subscription.
resource "azurerm_role_assignment" "apply_grants" {
  count = local.workflows

  scope                = local.subscription
  role_definition_name = "Role Based Access Control Administrator"
  principal_id         = azurerm_user_assigned_identity.workflow["apply"].principal_id
  principal_type       = "ServicePrincipal"
  condition_version    = "2.0"
  condition            = <<-EOT
    (
      (!(ActionMatches{'Microsoft.Authorization/roleAssignments/write'}))
      OR
      (@Request[Microsoft.Authorization/roleAssignments:RoleDefinitionId] ForAnyOfAnyValues:GuidEquals {${local.granted_role_ids}})
    )
    AND
    (
      (!(ActionMatches{'Microsoft.Authorization/roleAssignments/delete'}))
      OR
      (@Resource[Microsoft.Authorization/roleAssignments:RoleDefinitionId] ForAnyOfAnyValues:GuidEquals {${local.granted_role_ids}})
    )
  EOT
}

# Locks the models' account, and takes the lock away before destroying.
resource "azurerm_role_definition" "locks" {
  name        = "${local.name} locks"
  scope       = azurerm_resource_group.this.id
  description = "Puts locks in ${local.name} and takes them away"

  permissions {
    actions = ["Microsoft.Authorization/locks/*"]
  }

  assignable_scopes = [azurerm_resource_group.this.id]
}

resource "azurerm_role_assignment" "apply_locks" {
  count = local.workflows

  scope              = azurerm_resource_group.this.id
  role_definition_id = azurerm_role_definition.locks.role_definition_resource_id
  principal_id       = azurerm_user_assigned_identity.workflow["apply"].principal_id
  principal_type     = "ServicePrincipal"
}

output "state_storage_account" {
  description = "Account of the state: terraform init -backend-config=backends/<environment>.hcl -backend-config=storage_account_name=THIS."
  value       = azurerm_storage_account.state.name
}

output "plan_client_id" {
  description = "Identity of the workflow that plans; null without github_repository."
  value       = try(azurerm_user_assigned_identity.workflow["plan"].client_id, null)
}

output "apply_client_id" {
  description = "Identity of the workflow that applies and destroys; null without github_repository."
  value       = try(azurerm_user_assigned_identity.workflow["apply"].client_id, null)
}
