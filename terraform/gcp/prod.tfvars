# Survives the loss of a zone, and of an operator's concentration.
environment         = "prod"
region              = "europe-west3"
zones               = ["europe-west3-a", "europe-west3-b", "europe-west3-c"]
regional            = true
network_cidr        = "10.0.0.0/16"
kubernetes_version  = "1.35"
release_channel     = "STABLE"
deletion_protection = true

# Where kubectl is used from, such as ["203.0.113.7/32"]. Empty: the API has no address outside.
api_access_cidrs = []

# Two processors and 8 GiB, four and 16.
system_pool   = { machine_type = "e2-standard-2", min = 3, max = 6 }
workload_pool = { machine_type = "e2-standard-4", min = 3, max = 9 }

# k8s/base: server 500m and 512Mi, sidecar 50m and 192Mi.
workload = { cpu_millicores = 550, memory_mib = 704, replicas_min = 3, replicas_max = 12 }
