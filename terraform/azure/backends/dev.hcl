# The state of dev. Its account is the subscription's own: -backend-config="storage_account_name=…", as bootstrap says.
resource_group_name = "mainstay-dev-tfstate"
container_name      = "tfstate"
key                 = "azure/dev/terraform.tfstate"
use_azuread_auth    = true
