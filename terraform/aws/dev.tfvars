# One zone's NAT, few nodes, nothing protected: cheap, and gone in minutes.
environment         = "dev"
region              = "eu-central-1"
vpc_cidr            = "10.0.0.0/16"
nat_per_zone        = false
private_endpoints   = false
kubernetes_version  = "1.35"
deletion_protection = false
log_retention_days  = 30

# Where kubectl is used from, such as ["203.0.113.7/32"]. Empty: the API answers inside the network alone.
api_access_cidrs = []

# Two processors, 8 GiB, 29 addresses.
system_pool   = { instance_type = "m7i-flex.large", min = 1, max = 2 }
workload_pool = { instance_type = "m7i-flex.large", min = 1, max = 3 }

# k8s/base: server 500m and 512Mi, sidecar 50m and 192Mi.
workload = { cpu_millicores = 550, memory_mib = 704, replicas_min = 1, replicas_max = 1 }
