mock_provider "azurerm" {
  mock_data "azurerm_client_config" {
    defaults = {
      subscription_id = "00000000-0000-0000-0000-000000000000"
      object_id       = "00000000-0000-0000-0000-000000000001"
    }
  }
}

variables {
  environment       = "prod"
  github_repository = "example/mainstay"
}

run "prod" {
  # The account of a state is never destroyed, not even here: so nothing is applied.
  command = plan

  assert {
    condition     = azurerm_federated_identity_credential.workflow["apply"].subject == "repo:example/mainstay:environment:infrastructure-azure-prod"
    error_message = "a job outside the protected environment can apply"
  }

  assert {
    condition     = azurerm_federated_identity_credential.workflow["plan"].subject == "repo:example/mainstay:environment:infrastructure-plan"
    error_message = "a job outside its environment can plan"
  }

  # Who plans only looks.
  assert {
    condition     = azurerm_role_assignment.plan[0].role_definition_name == "Reader" && azurerm_role_assignment.plan_state[0].role_definition_name == "Storage Blob Data Reader"
    error_message = "the planning identity may change something"
  }

  # Owner, User Access Administrator and Role Based Access Control Administrator are not to be given.
  assert {
    condition     = length(regexall("8e3af657-a8ff-443c-a75c-2fe8c4bcb635|18d7d88d-d35e-4fb5-a5c3-7773c20a72d9|f58310d9-a9f6-439a-9e8d-f62e7b41a168", azurerm_role_assignment.apply_grants[0].condition)) == 0 && length(regexall("GuidEquals \\{7f951dda", azurerm_role_assignment.apply_grants[0].condition)) == 2
    error_message = "the applying identity may give itself everything"
  }

  assert {
    condition     = !azurerm_storage_account.state.allow_nested_items_to_be_public && !azurerm_storage_account.state.shared_access_key_enabled && azurerm_storage_account.state.blob_properties[0].versioning_enabled && azurerm_storage_container.state.container_access_type == "private"
    error_message = "a state may become public, or is lost when overwritten"
  }

  assert {
    condition     = can(regex("^[a-z0-9]{3,24}$", azurerm_storage_account.state.name))
    error_message = "${azurerm_storage_account.state.name} is no name of an account"
  }
}

run "no_workflow_gets_an_identity_unless_a_repository_is_named" {
  command = plan

  variables {
    github_repository = null
  }

  assert {
    condition     = length(azurerm_user_assigned_identity.workflow) == 0
    error_message = "there is an identity for nobody"
  }
}
