# Who a pod is: an identity that trusts the tokens of one service account of this cluster. No key exists that could leak.

# Mainstay's sidecar reads models from one container, and does nothing else.
resource "azurerm_user_assigned_identity" "mainstay" {
  name                = "${local.name}-pod"
  location            = var.location
  resource_group_name = data.azurerm_resource_group.this.name
  tags                = local.tags
}

resource "azurerm_federated_identity_credential" "mainstay" {
  name                      = "mainstay"
  user_assigned_identity_id = azurerm_user_assigned_identity.mainstay.id
  issuer                    = azurerm_kubernetes_cluster.this.oidc_issuer_url
  audience                  = ["api://AzureADTokenExchange"]
  subject                   = "system:serviceaccount:${local.namespace}:${var.service_account}"
}

resource "azurerm_role_assignment" "mainstay" {
  scope                = azurerm_storage_container.models.id
  role_definition_name = "Storage Blob Data Reader"
  principal_id         = azurerm_user_assigned_identity.mainstay.principal_id
  principal_type       = "ServicePrincipal"
}

# Makes Application Gateway for Containers of Gateways: the controller is installed as docs/terraform-azure.md says.
resource "azurerm_user_assigned_identity" "alb_controller" {
  name                = "${local.name}-alb-controller"
  location            = var.location
  resource_group_name = data.azurerm_resource_group.this.name
  tags                = local.tags
}

resource "azurerm_federated_identity_credential" "alb_controller" {
  name                      = "alb-controller"
  user_assigned_identity_id = azurerm_user_assigned_identity.alb_controller.id
  issuer                    = azurerm_kubernetes_cluster.this.oidc_issuer_url
  audience                  = ["api://AzureADTokenExchange"]
  subject                   = "system:serviceaccount:azure-alb-system:alb-controller-sa"
}

resource "azurerm_role_assignment" "alb_controller_reads" {
  scope                = azurerm_kubernetes_cluster.this.node_resource_group_id
  role_definition_name = "Reader"
  principal_id         = azurerm_user_assigned_identity.alb_controller.principal_id
  principal_type       = "ServicePrincipal"
}

resource "azurerm_role_assignment" "alb_controller_configures" {
  scope                = azurerm_kubernetes_cluster.this.node_resource_group_id
  role_definition_name = "AppGw for Containers Configuration Manager"
  principal_id         = azurerm_user_assigned_identity.alb_controller.principal_id
  principal_type       = "ServicePrincipal"
}

resource "azurerm_role_assignment" "alb_controller_joins" {
  scope                = azurerm_subnet.alb.id
  role_definition_name = "Network Contributor"
  principal_id         = azurerm_user_assigned_identity.alb_controller.principal_id
  principal_type       = "ServicePrincipal"
}
