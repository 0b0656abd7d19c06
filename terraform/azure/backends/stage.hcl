# The state of stage. Its account is the subscription's own: -backend-config="storage_account_name=…", as bootstrap says.
resource_group_name = "mainstay-stage-tfstate"
container_name      = "tfstate"
key                 = "azure/stage/terraform.tfstate"
use_azuread_auth    = true
