# dev.tfvars, with a provider that only pretends.

mock_provider "azurerm" {
  source = "./tests/mocks"
}

run "variables" {
  module {
    source = "../modules/tfvars"
  }

  variables {
    file = "dev.tfvars"
  }
}

# Applied, since who may do what is only known then.
run "dev" {
  variables {
    environment            = run.variables.values.environment
    location               = run.variables.values.location
    vnet_cidr              = run.variables.values.vnet_cidr
    kubernetes_version     = run.variables.values.kubernetes_version
    sku_tier               = run.variables.values.sku_tier
    registry_sku           = run.variables.values.registry_sku
    api_access_cidrs       = run.variables.values.api_access_cidrs
    system_pool            = run.variables.values.system_pool
    workload_pool          = run.variables.values.workload_pool
    workload               = run.variables.values.workload
    deletion_protection    = run.variables.values.deletion_protection
    log_retention_days     = run.variables.values.log_retention_days
    github_repository      = "example/mainstay"
    admin_group_object_ids = ["00000000-0000-0000-0000-000000000001"]
  }

  assert {
    condition     = output.kubeconfig_command == "az aks get-credentials --resource-group mainstay-dev --name mainstay-dev"
    error_message = "kubeconfig_command is ${output.kubeconfig_command}"
  }

  assert {
    condition     = output.pod_identity_subject == "system:serviceaccount:mainstay-dev:mainstay"
    error_message = "the identity is for ${output.pod_identity_subject}"
  }

  assert {
    condition     = output.pods_per_node == 2
    error_message = "a workload node holds ${output.pods_per_node} pods"
  }

  # The identity is exactly one service account, by its cluster's issuer.
  assert {
    condition     = azurerm_federated_identity_credential.mainstay.issuer == azurerm_kubernetes_cluster.this.oidc_issuer_url && azurerm_federated_identity_credential.mainstay.audience == tolist(["api://AzureADTokenExchange"])
    error_message = "another issuer's tokens are taken"
  }

  # It reads one container and does nothing else.
  assert {
    condition     = azurerm_role_assignment.mainstay.role_definition_name == "Storage Blob Data Reader" && azurerm_role_assignment.mainstay.scope == azurerm_storage_container.models.id
    error_message = "the pod may do more than read its container"
  }

  assert {
    condition     = azurerm_role_assignment.nodes_pull.role_definition_name == "AcrPull" && azurerm_role_assignment.nodes_pull.scope == azurerm_container_registry.this.id
    error_message = "nodes may do more than pull"
  }

  assert {
    condition     = azurerm_federated_identity_credential.publisher[0].subject == "repo:example/mainstay:environment:release"
    error_message = "another job can publish"
  }

  assert {
    condition     = length(azurerm_role_assignment.admin) == 0
    error_message = "whoever applies is an administrator beside the group"
  }

  assert {
    condition     = !azurerm_storage_account.artifacts.allow_nested_items_to_be_public && !azurerm_storage_account.artifacts.shared_access_key_enabled && azurerm_storage_container.models.container_access_type == "private"
    error_message = "models may become public, or have a key"
  }

  assert {
    condition     = azurerm_storage_account.artifacts.network_rules[0].default_action == "Deny" && azurerm_storage_account.artifacts.network_rules[0].virtual_network_subnet_ids == toset([azurerm_subnet.nodes.id])
    error_message = "models are given to other networks"
  }

  assert {
    condition     = azurerm_storage_account.artifacts.https_traffic_only_enabled && azurerm_storage_account.artifacts.min_tls_version == "TLS1_2" && azurerm_storage_account.artifacts.blob_properties[0].versioning_enabled
    error_message = "models travel without TLS, or are lost when overwritten"
  }

  assert {
    condition     = !azurerm_container_registry.this.admin_enabled && !azurerm_container_registry.this.anonymous_pull_enabled
    error_message = "the registry has a password, or none is asked for"
  }

  assert {
    condition     = toset(azurerm_kubernetes_cluster.this.api_server_access_profile[0].authorized_ip_ranges) == toset(["0.0.0.0/32"])
    error_message = "the API answers outside though no network is named"
  }

  assert {
    condition     = azurerm_kubernetes_cluster.this.local_account_disabled && azurerm_kubernetes_cluster.this.oidc_issuer_enabled && azurerm_kubernetes_cluster.this.workload_identity_enabled
    error_message = "the cluster has an account of its own, or pods cannot be somebody"
  }

  assert {
    condition     = azurerm_kubernetes_cluster.this.network_profile[0].network_policy == "cilium"
    error_message = "nobody enforces network policies"
  }

  assert {
    condition     = azurerm_kubernetes_cluster.this.network_profile[0].outbound_type == "userAssignedNATGateway" && !azurerm_kubernetes_cluster.this.default_node_pool[0].node_public_ip_enabled && !azurerm_kubernetes_cluster_node_pool.workload.node_public_ip_enabled
    error_message = "a node may get a public address"
  }

  assert {
    condition     = length(azurerm_network_security_group.this.security_rule) == 0
    error_message = "somebody is let into the nodes' network"
  }
}

run "the_whole_internet_is_no_network_to_let_in" {
  command = plan

  variables {
    environment         = run.variables.values.environment
    location            = run.variables.values.location
    vnet_cidr           = run.variables.values.vnet_cidr
    kubernetes_version  = run.variables.values.kubernetes_version
    sku_tier            = run.variables.values.sku_tier
    registry_sku        = run.variables.values.registry_sku
    api_access_cidrs    = ["0.0.0.0/0"]
    system_pool         = run.variables.values.system_pool
    workload_pool       = run.variables.values.workload_pool
    workload            = run.variables.values.workload
    deletion_protection = run.variables.values.deletion_protection
    log_retention_days  = run.variables.values.log_retention_days
  }

  expect_failures = [var.api_access_cidrs]
}

run "whoever_applies_administers_unless_a_group_is_named" {
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
    condition     = length(azurerm_role_assignment.admin) == 1 && length(azurerm_user_assigned_identity.publisher) == 0
    error_message = "nobody administers, or there is a publisher for nobody"
  }
}
