# The state of prod. Its bucket is the account's own: -backend-config="bucket=…", as bootstrap says.
key          = "aws/prod/terraform.tfstate"
region       = "eu-central-1"
encrypt      = true
use_lockfile = true
