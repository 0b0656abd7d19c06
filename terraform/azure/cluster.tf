locals {
  # What Azure sells, for the sizes that fit: two processors and 8 GiB, four and 16, eight and 32, each with a local disk
  # that the system fits on.
  sizes = {
    Standard_D2ds_v5 = { cpus = 2, memory_mib = 8192, cpu_kept = 100 }
    Standard_D4ds_v5 = { cpus = 4, memory_mib = 16384, cpu_kept = 140 }
    Standard_D8ds_v5 = { cpus = 8, memory_mib = 32768, cpu_kept = 180 }
  }
  size = local.sizes[var.workload_pool.vm_size]

  # Addresses are the overlay's, so this bounds what kubelet keeps: 20 MiB a pod and 50, at most a quarter, and 100 below
  # which it evicts. Some 5 % of the memory that is sold never reaches Linux.
  pods_per_node_max = 50
  memory_kept       = min(20 * local.pods_per_node_max + 50, local.size.memory_mib / 4) + 100
}

module "fit" {
  source = "../modules/fit"

  node = {
    cpu_millicores = 1000 * local.size.cpus - local.size.cpu_kept
    memory_mib     = floor(local.size.memory_mib * 0.95) - local.memory_kept
    pods           = local.pods_per_node_max
  }
  # cilium, azure-cns, azure-ip-masq-agent, cloud-node-manager, csi-azuredisk-node, and one of
  # the operator's, such as a log collector.
  daemons = {
    cpu_millicores = 500
    memory_mib     = 900
    pods           = 7
  }
  workload  = var.workload
  nodes_min = var.workload_pool.min
  nodes_max = var.workload_pool.max
  zones     = 3
}

resource "azurerm_user_assigned_identity" "cluster" {
  name                = "${local.name}-cluster"
  location            = var.location
  resource_group_name = data.azurerm_resource_group.this.name
  tags                = local.tags
}

# Who the nodes are when they pull images.
resource "azurerm_user_assigned_identity" "nodes" {
  name                = "${local.name}-nodes"
  location            = var.location
  resource_group_name = data.azurerm_resource_group.this.name
  tags                = local.tags
}

resource "azurerm_role_assignment" "cluster_lends_nodes_their_identity" {
  scope                = azurerm_user_assigned_identity.nodes.id
  role_definition_name = "Managed Identity Operator"
  principal_id         = azurerm_user_assigned_identity.cluster.principal_id
  principal_type       = "ServicePrincipal"
}

# The cluster joins its nodes, its control plane and its load balancers to these two, and to no other.
resource "azurerm_role_assignment" "cluster_network" {
  for_each = { nodes = azurerm_subnet.nodes.id, api = azurerm_subnet.api.id }

  scope                = each.value
  role_definition_name = "Network Contributor"
  principal_id         = azurerm_user_assigned_identity.cluster.principal_id
  principal_type       = "ServicePrincipal"
}

resource "azurerm_kubernetes_cluster" "this" {
  #checkov:skip=CKV_AZURE_4:the diagnostic setting below sends the control plane's logs; pods' logs are the operator's to collect
  #checkov:skip=CKV_AZURE_115:a private cluster is private for ever; here the API answers api_access_cidrs, or nobody outside
  #checkov:skip=CKV_AZURE_117:disks are the nodes' own and die with them; models are verified whenever they are read
  #checkov:skip=CKV_AZURE_170:dev has no promise of availability; sku_tier says which environment has
  #checkov:skip=CKV_AZURE_227:the feature must first be registered with the subscription; disks are encrypted at rest without it
  #checkov:skip=CKV_AZURE_172:no secret is mounted from a vault
  name                = local.name
  location            = var.location
  resource_group_name = data.azurerm_resource_group.this.name
  node_resource_group = "${local.name}-nodes"
  dns_prefix          = local.name
  kubernetes_version  = var.kubernetes_version
  sku_tier            = var.sku_tier
  tags                = local.tags

  # Patches and node images by themselves, in the windows below; minor versions are kubernetes_version's.
  automatic_upgrade_channel = "patch"
  node_os_upgrade_channel   = "NodeImage"

  oidc_issuer_enabled               = true
  workload_identity_enabled         = true
  role_based_access_control_enabled = true
  local_account_disabled            = true
  azure_policy_enabled              = true
  run_command_enabled               = true
  image_cleaner_enabled             = true
  image_cleaner_interval_hours      = 168

  api_server_access_profile {
    virtual_network_integration_enabled = true
    subnet_id                           = azurerm_subnet.api.id
    # An empty list would let everybody in; this address is nobody's.
    authorized_ip_ranges = length(var.api_access_cidrs) > 0 ? var.api_access_cidrs : ["0.0.0.0/32"]
  }

  azure_active_directory_role_based_access_control {
    azure_rbac_enabled     = true
    tenant_id              = data.azurerm_client_config.current.tenant_id
    admin_group_object_ids = var.admin_group_object_ids
  }

  identity {
    type         = "UserAssigned"
    identity_ids = [azurerm_user_assigned_identity.cluster.id]
  }

  kubelet_identity {
    client_id                 = azurerm_user_assigned_identity.nodes.client_id
    object_id                 = azurerm_user_assigned_identity.nodes.principal_id
    user_assigned_identity_id = azurerm_user_assigned_identity.nodes.id
  }

  default_node_pool {
    name                         = "system"
    vm_size                      = var.system_pool.vm_size
    vnet_subnet_id               = azurerm_subnet.nodes.id
    zones                        = ["1", "2", "3"]
    auto_scaling_enabled         = true
    min_count                    = var.system_pool.min
    max_count                    = var.system_pool.max
    max_pods                     = 110
    os_sku                       = "AzureLinux"
    os_disk_type                 = "Ephemeral"
    os_disk_size_gb              = 60
    only_critical_addons_enabled = true
    node_public_ip_enabled       = false
    orchestrator_version         = var.kubernetes_version
    temporary_name_for_rotation  = "systemtmp"
    node_labels                  = { "mainstay/pool" = "system" }
    tags                         = local.tags

    upgrade_settings {
      max_surge                = "1"
      drain_timeout_in_minutes = 10
    }
  }

  network_profile {
    network_plugin      = "azure"
    network_plugin_mode = "overlay"
    network_data_plane  = "cilium"
    # A NetworkPolicy that nobody enforces is a decoration.
    network_policy    = "cilium"
    load_balancer_sku = "standard"
    outbound_type     = "userAssignedNATGateway"
    pod_cidr          = "10.244.0.0/16"
    service_cidr      = "10.2.0.0/16"
    dns_service_ip    = "10.2.0.10"
  }

  auto_scaler_profile {
    balance_similar_node_groups   = true
    expander                      = "least-waste"
    skip_nodes_with_local_storage = false
  }

  storage_profile {
    disk_driver_enabled         = true
    file_driver_enabled         = false
    snapshot_controller_enabled = false
  }

  maintenance_window_auto_upgrade {
    frequency   = "Weekly"
    interval    = 1
    duration    = 4
    day_of_week = "Tuesday"
    start_time  = "02:00"
    utc_offset  = "+00:00"
  }

  maintenance_window_node_os {
    frequency   = "Weekly"
    interval    = 1
    duration    = 4
    day_of_week = "Wednesday"
    start_time  = "02:00"
    utc_offset  = "+00:00"
  }

  lifecycle {
    # The autoscaler's, and the upgrade channel's within the minor version.
    ignore_changes = [default_node_pool[0].node_count]
  }

  depends_on = [
    azurerm_role_assignment.cluster_lends_nodes_their_identity,
    azurerm_role_assignment.cluster_network,
    azurerm_subnet_nat_gateway_association.nodes,
    azurerm_subnet_nat_gateway_association.api,
  ]
}

resource "azurerm_kubernetes_cluster_node_pool" "workload" {
  #checkov:skip=CKV_AZURE_227:as for the cluster
  name                        = "workload"
  kubernetes_cluster_id       = azurerm_kubernetes_cluster.this.id
  mode                        = "User"
  vm_size                     = var.workload_pool.vm_size
  vnet_subnet_id              = azurerm_subnet.nodes.id
  zones                       = ["1", "2", "3"]
  auto_scaling_enabled        = true
  min_count                   = var.workload_pool.min
  max_count                   = var.workload_pool.max
  max_pods                    = local.pods_per_node_max
  os_sku                      = "AzureLinux"
  os_disk_type                = "Ephemeral"
  os_disk_size_gb             = 60
  node_public_ip_enabled      = false
  orchestrator_version        = var.kubernetes_version
  temporary_name_for_rotation = "worktmp"
  node_labels                 = { "mainstay/pool" = "workload" }
  tags                        = local.tags

  upgrade_settings {
    max_surge                = "1"
    drain_timeout_in_minutes = 10
  }

  lifecycle {
    # The autoscaler's.
    ignore_changes = [node_count]
  }
}

# Without a group of administrators, whoever applies is the one.
resource "azurerm_role_assignment" "admin" {
  count = length(var.admin_group_object_ids) == 0 ? 1 : 0

  scope                = azurerm_kubernetes_cluster.this.id
  role_definition_name = "Azure Kubernetes Service RBAC Cluster Admin"
  principal_id         = data.azurerm_client_config.current.object_id
}

resource "azurerm_log_analytics_workspace" "this" {
  name                = local.name
  location            = var.location
  resource_group_name = data.azurerm_resource_group.this.name
  sku                 = "PerGB2018"
  retention_in_days   = var.log_retention_days
  tags                = local.tags
}

resource "azurerm_monitor_diagnostic_setting" "cluster" {
  name                           = "audit"
  target_resource_id             = azurerm_kubernetes_cluster.this.id
  log_analytics_workspace_id     = azurerm_log_analytics_workspace.this.id
  log_analytics_destination_type = "Dedicated"

  dynamic "enabled_log" {
    # kube-audit without -admin is every look at anything: ten times the price.
    for_each = toset(["kube-audit-admin", "guard", "kube-apiserver", "kube-controller-manager", "cluster-autoscaler"])

    content {
      category = enabled_log.value
    }
  }
}
