# The state of stage. Its bucket is the account's own: -backend-config="bucket=…", as bootstrap says.
key          = "aws/stage/terraform.tfstate"
region       = "eu-central-1"
encrypt      = true
use_lockfile = true
