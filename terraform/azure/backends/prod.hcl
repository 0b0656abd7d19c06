# The state of prod. Its account is the subscription's own: -backend-config="storage_account_name=…", as bootstrap says.
resource_group_name = "mainstay-prod-tfstate"
container_name      = "tfstate"
key                 = "azure/prod/terraform.tfstate"
use_azuread_auth    = true
