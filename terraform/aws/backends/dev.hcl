# The state of dev. Its bucket is the account's own: -backend-config="bucket=…", as bootstrap says.
key          = "aws/dev/terraform.tfstate"
region       = "eu-central-1"
encrypt      = true
use_lockfile = true
