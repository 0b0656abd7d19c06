# The state of dev. Its bucket is the project's own: -backend-config="bucket=…", as bootstrap says.
prefix = "gcp/dev"
