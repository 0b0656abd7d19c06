mock_data "azurerm_client_config" {
  defaults = {
    subscription_id = "00000000-0000-0000-0000-000000000000"
    tenant_id       = "00000000-0000-0000-0000-000000000000"
    object_id       = "00000000-0000-0000-0000-000000000000"
  }
}

mock_resource "azurerm_kubernetes_cluster" {
  defaults = {
    oidc_issuer_url        = "https://germanywestcentral.oic.prod-aks.azure.com/tenant/cluster/"
    node_resource_group_id = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/mainstay-nodes"
  }
}
