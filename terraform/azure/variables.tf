variable "environment" {
  description = "dev, stage or prod. A state belongs to one of them for ever."
  type        = string

  validation {
    condition     = contains(["dev", "stage", "prod"], var.environment)
    error_message = "environment must be dev, stage or prod"
  }
}

variable "name" {
  description = "What every name begins with."
  type        = string
  default     = "mainstay"

  validation {
    condition     = can(regex("^[a-z0-9]{3,10}$", var.name))
    error_message = "name must be 3 to 10 small letters and digits: a storage account takes no more"
  }
}

variable "location" {
  description = "Where everything is. It must have availability zones."
  type        = string
}

variable "vnet_cidr" {
  description = "Addresses of the network, a /16, apart from pods (10.244.0.0/16) and services (10.2.0.0/16)."
  type        = string

  validation {
    condition     = can(cidrsubnet(var.vnet_cidr, 12, 0)) && endswith(var.vnet_cidr, "/16") && !startswith(var.vnet_cidr, "10.244.") && !startswith(var.vnet_cidr, "10.2.")
    error_message = "vnet_cidr must be a /16 other than 10.244.0.0/16 and 10.2.0.0/16"
  }
}

variable "kubernetes_version" {
  description = "Minor version of Kubernetes. One step at a time upwards, never downwards; patches come by themselves."
  type        = string

  validation {
    condition     = can(regex("^1\\.[0-9]{2}$", var.kubernetes_version))
    error_message = "kubernetes_version must be a minor version such as 1.35"
  }
}

variable "sku_tier" {
  description = "Free has no promise of availability; Standard has 99.95 % with zones."
  type        = string

  validation {
    condition     = contains(["Free", "Standard", "Premium"], var.sku_tier)
    error_message = "sku_tier must be Free, Standard or Premium"
  }
}

variable "api_access_cidrs" {
  description = "Networks from which the Kubernetes API answers, besides the cluster's own. None: nobody outside, but az aks command invoke."
  type        = list(string)

  validation {
    condition     = alltrue([for cidr in var.api_access_cidrs : can(cidrnetmask(cidr)) && !endswith(cidr, "/0")])
    error_message = "api_access_cidrs must be IPv4 networks, and not the whole internet"
  }
}

variable "admin_group_object_ids" {
  description = "Entra groups that administer the cluster. None: whoever applies."
  type        = list(string)
  default     = []
}

variable "system_pool" {
  description = "Nodes for what the cluster itself needs. The size must be in local.sizes."
  type = object({
    vm_size = string
    min     = number
    max     = number
  })
}

variable "workload_pool" {
  description = "Nodes for Mainstay, and for what is installed beside it. The size must be in local.sizes."
  type = object({
    vm_size = string
    min     = number
    max     = number
  })

  validation {
    condition     = var.workload_pool.min >= 1 && var.workload_pool.max >= var.workload_pool.min
    error_message = "workload_pool needs 1 <= min <= max"
  }
}

variable "workload" {
  description = "Mainstay's pods, as k8s/overlays/aks/<environment> asks for them."
  type = object({
    cpu_millicores = number
    memory_mib     = number
    replicas_min   = number
    replicas_max   = number
  })
}

variable "namespace" {
  description = "Namespace of Mainstay's pods; null: mainstay-<environment>."
  type        = string
  default     = null
}

variable "service_account" {
  description = "Service account of Mainstay's pods."
  type        = string
  default     = "mainstay"
}

variable "registry_sku" {
  description = "Premium has zones and drops unfinished pushes; Standard does for the rest."
  type        = string

  validation {
    condition     = contains(["Standard", "Premium"], var.registry_sku)
    error_message = "registry_sku must be Standard or Premium"
  }
}

variable "artifacts_from_anywhere" {
  description = "Whether the models' account answers any network, to who has a role and a token. GitHub's own runners publish only so; else the nodes' network alone is answered."
  type        = bool
  default     = false
}

variable "deletion_protection" {
  description = "Whether the models' account and `terraform destroy` as a whole are protected."
  type        = bool
}

variable "log_retention_days" {
  description = "How long the logs of the control plane and of the models' account are kept: 30 to 730."
  type        = number
}

variable "github_repository" {
  description = "OWNER/NAME of the repository whose workflows publish images and models; null: none does."
  type        = string
  default     = null
}

variable "github_environment" {
  description = "GitHub environment that a publishing job must run in."
  type        = string
  default     = "release"
}
