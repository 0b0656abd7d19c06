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
    condition     = can(regex("^[a-z][a-z0-9]{2,9}$", var.name))
    error_message = "name must be 3 to 10 small letters and digits, a letter first"
  }
}

variable "region" {
  description = "Where everything is."
  type        = string
}

variable "zones" {
  description = "Zones of the region that nodes are in."
  type        = list(string)

  validation {
    condition     = length(var.zones) >= 1 && length(distinct(var.zones)) == length(var.zones)
    error_message = "zones must name each zone once"
  }
}

variable "regional" {
  description = "A control plane in three zones of the region; else in the first of zones alone."
  type        = bool
}

variable "network_cidr" {
  description = "Addresses of nodes and load balancers, a /16, apart from pods (10.128.0.0/17) and services (10.2.0.0/20)."
  type        = string

  validation {
    condition     = can(cidrsubnet(var.network_cidr, 7, 0)) && endswith(var.network_cidr, "/16") && !startswith(var.network_cidr, "10.128.") && !startswith(var.network_cidr, "10.2.")
    error_message = "network_cidr must be a /16 other than 10.128.0.0/16 and 10.2.0.0/16"
  }
}

variable "kubernetes_version" {
  description = "Oldest minor version of Kubernetes. The release channel brings patches, and the next minor version in time."
  type        = string

  validation {
    condition     = can(regex("^1\\.[0-9]{2}$", var.kubernetes_version))
    error_message = "kubernetes_version must be a minor version such as 1.35"
  }
}

variable "release_channel" {
  description = "RAPID, REGULAR or STABLE."
  type        = string

  validation {
    condition     = contains(["RAPID", "REGULAR", "STABLE"], var.release_channel)
    error_message = "release_channel must be RAPID, REGULAR or STABLE"
  }
}

variable "api_access_cidrs" {
  description = "Networks from which the Kubernetes API answers, besides the cluster's own. None: it has no address outside."
  type        = list(string)

  validation {
    condition     = alltrue([for cidr in var.api_access_cidrs : can(cidrnetmask(cidr)) && !endswith(cidr, "/0")])
    error_message = "api_access_cidrs must be IPv4 networks, and not the whole internet"
  }
}

variable "system_pool" {
  description = "Nodes for what the cluster itself needs."
  type = object({
    machine_type = string
    min          = number
    max          = number
  })
}

variable "workload_pool" {
  description = "Nodes for Mainstay, and for what is installed beside it. The machine type must be in local.machines."
  type = object({
    machine_type = string
    min          = number
    max          = number
  })

  validation {
    condition     = var.workload_pool.min >= 1 && var.workload_pool.max >= var.workload_pool.min
    error_message = "workload_pool needs 1 <= min <= max"
  }
}

variable "workload" {
  description = "Mainstay's pods, as k8s/overlays/gke/<environment> asks for them."
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

variable "repository" {
  description = "Name of the image repository."
  type        = string
  default     = "mainstay"
}

variable "deletion_protection" {
  description = "Whether the cluster, the bucket and `terraform destroy` as a whole are protected."
  type        = bool
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
