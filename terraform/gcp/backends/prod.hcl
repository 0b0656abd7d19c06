# The state of prod. Its bucket is the project's own: -backend-config="bucket=…", as bootstrap says.
prefix = "gcp/prod"
