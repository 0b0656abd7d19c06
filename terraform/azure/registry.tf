# The images of this environment. A digest is the same in every registry: promotion copies it, and what dev may push, prod
# does not pull. Azure has no registry-wide rule that a tag stays: deploy by digest (docs/terraform-azure.md).

resource "azurerm_container_registry" "this" {
  #checkov:skip=CKV_AZURE_163:Defender scans whole subscriptions: scan_images of bootstrap/
  #checkov:skip=CKV_AZURE_139:workflows push from outside; who may is decided by Entra, and nobody has a password
  #checkov:skip=CKV_AZURE_164:signatures are cosign's and verified by digest; Docker content trust has ended
  #checkov:skip=CKV_AZURE_165:one region, as the cluster
  #checkov:skip=CKV_AZURE_166:quarantine would need somebody to let every image out
  #checkov:skip=CKV_AZURE_167:registry_sku says whether it is there; only Premium has it
  #checkov:skip=CKV_AZURE_233:registry_sku says whether it is there; only Premium has it
  #checkov:skip=CKV_AZURE_237:dedicated data endpoints are for firewalls that name them
  name                          = local.unique
  location                      = var.location
  resource_group_name           = data.azurerm_resource_group.this.name
  sku                           = var.registry_sku
  admin_enabled                 = false
  anonymous_pull_enabled        = false
  public_network_access_enabled = true
  zone_redundancy_enabled       = var.registry_sku == "Premium"
  retention_policy_in_days      = var.registry_sku == "Premium" ? 14 : null
  tags                          = local.tags
}

resource "azurerm_monitor_diagnostic_setting" "registry" {
  name                       = "access"
  target_resource_id         = azurerm_container_registry.this.id
  log_analytics_workspace_id = azurerm_log_analytics_workspace.this.id

  dynamic "enabled_log" {
    for_each = toset(["ContainerRegistryLoginEvents", "ContainerRegistryRepositoryEvents"])

    content {
      category = enabled_log.value
    }
  }
}

resource "azurerm_role_assignment" "nodes_pull" {
  scope                = azurerm_container_registry.this.id
  role_definition_name = "AcrPull"
  principal_id         = azurerm_user_assigned_identity.nodes.principal_id
  principal_type       = "ServicePrincipal"
}

# Who publishes: a job of the repository's workflows, in its protected environment and nowhere else. It holds no key.
resource "azurerm_user_assigned_identity" "publisher" {
  count = var.github_repository == null ? 0 : 1

  name                = "${local.name}-publisher"
  location            = var.location
  resource_group_name = data.azurerm_resource_group.this.name
  tags                = local.tags
}

resource "azurerm_federated_identity_credential" "publisher" {
  count = var.github_repository == null ? 0 : 1

  name                      = "github"
  user_assigned_identity_id = azurerm_user_assigned_identity.publisher[0].id
  issuer                    = "https://token.actions.githubusercontent.com"
  audience                  = ["api://AzureADTokenExchange"]
  subject                   = "repo:${var.github_repository}:environment:${var.github_environment}"
}

resource "azurerm_role_assignment" "publisher_pushes" {
  count = var.github_repository == null ? 0 : 1

  scope                = azurerm_container_registry.this.id
  role_definition_name = "AcrPush"
  principal_id         = azurerm_user_assigned_identity.publisher[0].principal_id
  principal_type       = "ServicePrincipal"
}

resource "azurerm_role_assignment" "publisher_models" {
  count = var.github_repository == null ? 0 : 1

  scope                = azurerm_storage_container.models.id
  role_definition_name = "Storage Blob Data Contributor"
  principal_id         = azurerm_user_assigned_identity.publisher[0].principal_id
  principal_type       = "ServicePrincipal"
}
