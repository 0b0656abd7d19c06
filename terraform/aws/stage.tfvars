# As prod, smaller: a node in each zone, and one NAT.
environment         = "stage"
region              = "eu-central-1"
vpc_cidr            = "10.0.0.0/16"
nat_per_zone        = false
private_endpoints   = false
kubernetes_version  = "1.35"
deletion_protection = true
log_retention_days  = 90

# Where kubectl is used from, such as ["203.0.113.7/32"]. Empty: the API answers inside the network alone.
api_access_cidrs = []

# Two processors, 8 GiB, 29 addresses.
system_pool   = { instance_type = "m7i-flex.large", min = 2, max = 3 }
workload_pool = { instance_type = "m7i-flex.large", min = 3, max = 6 }

# k8s/base: server 500m and 512Mi, sidecar 50m and 192Mi.
workload = { cpu_millicores = 550, memory_mib = 704, replicas_min = 2, replicas_max = 4 }
