# Survives the loss of a zone, and of an operator's concentration.
environment         = "prod"
location            = "germanywestcentral"
vnet_cidr           = "10.0.0.0/16"
kubernetes_version  = "1.35"
sku_tier            = "Standard"
registry_sku        = "Premium"
deletion_protection = true
log_retention_days  = 365

# Where kubectl is used from, such as ["203.0.113.7/32"]. Empty: nobody outside but az aks command invoke.
api_access_cidrs = []

# Two processors and 8 GiB (D2), four and 16 (D4).
system_pool   = { vm_size = "Standard_D2ds_v5", min = 3, max = 6 }
workload_pool = { vm_size = "Standard_D4ds_v5", min = 3, max = 9 }

# k8s/base: server 500m and 512Mi, sidecar 50m and 192Mi.
workload = { cpu_millicores = 550, memory_mib = 704, replicas_min = 3, replicas_max = 12 }
