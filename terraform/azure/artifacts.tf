# Where models lie. No key opens it: who reads has a role and a token, and comes from a network that is let in.

resource "azurerm_storage_account" "artifacts" {
  #checkov:skip=CKV_AZURE_59:the endpoint has a public address, and answers the nodes' subnet alone unless artifacts_from_anywhere
  #checkov:skip=CKV_AZURE_33:there are no queues
  #checkov:skip=CKV_AZURE_206:ZRS keeps three copies in three zones; models can be trained again
  #checkov:skip=CKV2_AZURE_1:Azure's key is rotated by Azure; a key of one's own is one more thing to lose all models by
  #checkov:skip=CKV2_AZURE_33:the nodes' subnet has a service endpoint, which costs nothing
  #checkov:skip=CKV2_AZURE_21:what reads it is logged by the diagnostic setting below
  name                              = local.unique
  location                          = var.location
  resource_group_name               = data.azurerm_resource_group.this.name
  account_kind                      = "StorageV2"
  account_tier                      = "Standard"
  account_replication_type          = "ZRS"
  access_tier                       = "Hot"
  https_traffic_only_enabled        = true
  min_tls_version                   = "TLS1_2"
  allow_nested_items_to_be_public   = false
  shared_access_key_enabled         = false
  local_user_enabled                = false
  default_to_oauth_authentication   = true
  cross_tenant_replication_enabled  = false
  infrastructure_encryption_enabled = true
  public_network_access_enabled     = true
  tags                              = local.tags

  blob_properties {
    versioning_enabled = true

    delete_retention_policy {
      days = 30
    }

    container_delete_retention_policy {
      days = 30
    }
  }

  network_rules {
    default_action             = var.artifacts_from_anywhere ? "Allow" : "Deny"
    bypass                     = ["AzureServices"]
    virtual_network_subnet_ids = [azurerm_subnet.nodes.id]
  }

  sas_policy {
    expiration_period = "00.01:00:00"
  }
}

resource "azurerm_storage_container" "models" {
  #checkov:skip=CKV2_AZURE_21:as for the account
  name                  = "models"
  storage_account_id    = azurerm_storage_account.artifacts.id
  container_access_type = "private"
}

resource "azurerm_storage_management_policy" "artifacts" {
  storage_account_id = azurerm_storage_account.artifacts.id

  # A model that was overwritten or deleted can be had back for this long. What is current never expires.
  rule {
    name    = "old-versions"
    enabled = true

    filters {
      blob_types = ["blockBlob"]
    }

    actions {
      version {
        delete_after_days_since_creation = 90
      }
    }
  }
}

resource "azurerm_management_lock" "artifacts" {
  count = var.deletion_protection ? 1 : 0

  name       = "models"
  scope      = azurerm_storage_account.artifacts.id
  lock_level = "CanNotDelete"
  notes      = "deletion_protection of ${local.name}"

  # What belongs to the account cannot be deleted under the lock: the lock comes last and goes first.
  depends_on = [azurerm_monitor_diagnostic_setting.artifacts, azurerm_storage_container.models, azurerm_storage_management_policy.artifacts]
}

resource "azurerm_monitor_diagnostic_setting" "artifacts" {
  name                       = "access"
  target_resource_id         = "${azurerm_storage_account.artifacts.id}/blobServices/default"
  log_analytics_workspace_id = azurerm_log_analytics_workspace.this.id

  dynamic "enabled_log" {
    for_each = toset(["StorageRead", "StorageWrite", "StorageDelete"])

    content {
      category = enabled_log.value
    }
  }
}
