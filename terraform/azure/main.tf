data "azurerm_client_config" "current" {}

# Made by bootstrap/, so that applying needs rights in this group and not in the subscription.
data "azurerm_resource_group" "this" {
  name = local.name
}

locals {
  name      = "${var.name}-${var.environment}"
  namespace = coalesce(var.namespace, "mainstay-${var.environment}")

  # Accounts and registries have one name in all the world.
  unique = "${var.name}${var.environment}${substr(sha256(data.azurerm_client_config.current.subscription_id), 0, 8)}"

  tags = {
    project     = var.name
    environment = var.environment
    managed-by  = "terraform"
  }
}

module "guard" {
  source = "../modules/guard"

  environment         = var.environment
  deletion_protection = var.deletion_protection
  protects = [
    azurerm_federated_identity_credential.alb_controller.id,
    azurerm_federated_identity_credential.mainstay.id,
    azurerm_federated_identity_credential.publisher[*].id,
    azurerm_kubernetes_cluster_node_pool.workload.id,
    azurerm_management_lock.artifacts[*].id,
    azurerm_monitor_diagnostic_setting.artifacts.id,
    azurerm_monitor_diagnostic_setting.cluster.id,
    azurerm_monitor_diagnostic_setting.registry.id,
    azurerm_nat_gateway_public_ip_association.this.id,
    azurerm_role_assignment.admin[*].id,
    azurerm_role_assignment.alb_controller_configures.id,
    azurerm_role_assignment.alb_controller_joins.id,
    azurerm_role_assignment.alb_controller_reads.id,
    azurerm_role_assignment.mainstay.id,
    azurerm_role_assignment.nodes_pull.id,
    azurerm_role_assignment.publisher_models[*].id,
    azurerm_role_assignment.publisher_pushes[*].id,
    azurerm_storage_management_policy.artifacts.id,
    azurerm_subnet.alb.id,
    azurerm_subnet_network_security_group_association.nodes.id,
  ]
}
