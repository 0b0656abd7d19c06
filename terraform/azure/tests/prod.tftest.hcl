# prod.tfvars, with a provider that only pretends.

mock_provider "azurerm" {
  source = "./tests/mocks"
}

run "variables" {
  module {
    source = "../modules/tfvars"
  }

  variables {
    file = "prod.tfvars"
  }
}

run "prod" {
  command = plan

  variables {
    environment         = run.variables.values.environment
    location            = run.variables.values.location
    vnet_cidr           = run.variables.values.vnet_cidr
    kubernetes_version  = run.variables.values.kubernetes_version
    sku_tier            = run.variables.values.sku_tier
    registry_sku        = run.variables.values.registry_sku
    api_access_cidrs    = run.variables.values.api_access_cidrs
    system_pool         = run.variables.values.system_pool
    workload_pool       = run.variables.values.workload_pool
    workload            = run.variables.values.workload
    deletion_protection = run.variables.values.deletion_protection
    log_retention_days  = run.variables.values.log_retention_days
  }

  assert {
    condition     = output.kubeconfig_command == "az aks get-credentials --resource-group mainstay-prod --name mainstay-prod"
    error_message = "kubeconfig_command is ${output.kubeconfig_command}"
  }

  assert {
    condition     = output.pod_identity_subject == "system:serviceaccount:mainstay-prod:mainstay"
    error_message = "the identity is for ${output.pod_identity_subject}"
  }

  assert {
    condition     = output.pods_per_node == 6
    error_message = "a workload node holds ${output.pods_per_node} pods"
  }

  assert {
    condition     = length(azurerm_management_lock.artifacts) == 1 && azurerm_management_lock.artifacts[0].lock_level == "CanNotDelete"
    error_message = "the models are not protected"
  }

  assert {
    condition     = azurerm_kubernetes_cluster.this.sku_tier == "Standard" && azurerm_container_registry.this.zone_redundancy_enabled
    error_message = "nobody promises that the API or the images are there"
  }

  assert {
    condition     = azurerm_kubernetes_cluster_node_pool.workload.min_count >= 3 && azurerm_kubernetes_cluster.this.default_node_pool[0].min_count >= 3
    error_message = "a zone has no node"
  }

  assert {
    condition     = azurerm_log_analytics_workspace.this.retention_in_days == 365
    error_message = "prod's audit log is kept for ${azurerm_log_analytics_workspace.this.retention_in_days} days"
  }
}

run "named_networks_reach_the_api" {
  command = plan

  variables {
    environment         = run.variables.values.environment
    location            = run.variables.values.location
    vnet_cidr           = run.variables.values.vnet_cidr
    kubernetes_version  = run.variables.values.kubernetes_version
    sku_tier            = run.variables.values.sku_tier
    registry_sku        = run.variables.values.registry_sku
    api_access_cidrs    = ["203.0.113.7/32"]
    system_pool         = run.variables.values.system_pool
    workload_pool       = run.variables.values.workload_pool
    workload            = run.variables.values.workload
    deletion_protection = run.variables.values.deletion_protection
    log_retention_days  = run.variables.values.log_retention_days
  }

  assert {
    condition     = toset(azurerm_kubernetes_cluster.this.api_server_access_profile[0].authorized_ip_ranges) == toset(["203.0.113.7/32"])
    error_message = "others than those named reach the API"
  }
}
