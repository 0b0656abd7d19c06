# One zone, few nodes, nothing protected: cheap, and gone in minutes.
environment         = "dev"
region              = "europe-west3"
zones               = ["europe-west3-a"]
regional            = false
network_cidr        = "10.0.0.0/16"
kubernetes_version  = "1.35"
release_channel     = "REGULAR"
deletion_protection = false

# Where kubectl is used from, such as ["203.0.113.7/32"]. Empty: the API has no address outside.
api_access_cidrs = []

# Two processors and 8 GiB, four and 16.
system_pool   = { machine_type = "e2-standard-2", min = 1, max = 2 }
workload_pool = { machine_type = "e2-standard-2", min = 1, max = 3 }

# k8s/base: server 500m and 512Mi, sidecar 50m and 192Mi.
workload = { cpu_millicores = 550, memory_mib = 704, replicas_min = 1, replicas_max = 1 }
