# stage.tfvars, with a provider that only pretends.

mock_provider "azurerm" {
  source = "./tests/mocks"
}

run "variables" {
  module {
    source = "../modules/tfvars"
  }

  variables {
    file = "stage.tfvars"
  }
}

run "stage" {
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
    condition     = output.kubeconfig_command == "az aks get-credentials --resource-group mainstay-stage --name mainstay-stage"
    error_message = "kubeconfig_command is ${output.kubeconfig_command}"
  }

  assert {
    condition     = output.pod_identity_subject == "system:serviceaccount:mainstay-stage:mainstay"
    error_message = "the identity is for ${output.pod_identity_subject}"
  }

  assert {
    condition     = output.pods_per_node == 2
    error_message = "a workload node holds ${output.pods_per_node} pods"
  }

  assert {
    condition     = length(azurerm_management_lock.artifacts) == 1
    error_message = "the models are not protected"
  }

  assert {
    condition     = azurerm_kubernetes_cluster_node_pool.workload.min_count >= 3 && length(azurerm_kubernetes_cluster_node_pool.workload.zones) == 3
    error_message = "a zone has no workload node"
  }
}
