output "kubeconfig_command" {
  description = "Type this, and kubectl speaks to the cluster (with kubelogin, as Entra asks)."
  value       = "az aks get-credentials --resource-group ${data.azurerm_resource_group.this.name} --name ${azurerm_kubernetes_cluster.this.name}"
}

output "cluster_name" {
  description = "Name of the cluster."
  value       = azurerm_kubernetes_cluster.this.name
}

output "storage_account" {
  description = "AZURE_STORAGE_ACCOUNT_NAME in k8s/overlays/aks/<environment>/cluster/sync.env."
  value       = azurerm_storage_account.artifacts.name
}

output "artifacts_bucket" {
  description = "Container of the models, in storage_account."
  value       = azurerm_storage_container.models.name
}

output "artifacts_uri" {
  description = "ARTIFACTS in k8s/overlays/aks/<environment>/cluster/sync.env."
  value       = "az://${azurerm_storage_container.models.name}/"
}

output "image_repository" {
  description = "Image's newName in k8s/overlays/aks/<environment>."
  value       = "${azurerm_container_registry.this.login_server}/mainstay"
}

output "workload_identity_client_id" {
  description = "AZURE_IDENTITY_CLIENT_ID in k8s/overlays/aks/<environment>/cluster/cluster.env."
  value       = azurerm_user_assigned_identity.mainstay.client_id
}

output "pod_identity_subject" {
  description = "The one service account that is let in."
  value       = azurerm_federated_identity_credential.mainstay.subject
}

output "alb_subnet_id" {
  description = "ALB_SUBNET_ID in k8s/overlays/aks/<environment>/cluster/cluster.env."
  value       = azurerm_subnet.alb.id
}

output "alb_subnet_cidr" {
  description = "LOAD_BALANCER_CIDR in k8s/overlays/aks/<environment>/cluster/cluster.env."
  value       = local.alb_cidr
}

output "alb_controller_client_id" {
  description = "Who the controller of Application Gateway for Containers is."
  value       = azurerm_user_assigned_identity.alb_controller.client_id
}

output "publisher_client_id" {
  description = "Identity of the workflow that pushes images and models; null without github_repository."
  value       = one(azurerm_user_assigned_identity.publisher[*].client_id)
}

output "egress_addresses" {
  description = "Addresses that nodes and pods have outside, for allow lists of git hosts."
  value       = [azurerm_public_ip.nat.ip_address]
}

output "pods_per_node" {
  description = "Mainstay pods that fit a workload node."
  value       = module.fit.pods_per_node
}

output "pods_max" {
  description = "Mainstay pods that fit the workload pool at its largest."
  value       = module.fit.pods_max
}
