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
}

variable "region" {
  description = "Where everything is."
  type        = string
}

variable "vpc_cidr" {
  description = "Addresses of the network, a /16."
  type        = string

  validation {
    condition     = can(cidrsubnet(var.vpc_cidr, 12, 0)) && endswith(var.vpc_cidr, "/16")
    error_message = "vpc_cidr must be a /16"
  }
}

variable "nat_per_zone" {
  description = "A NAT gateway in each zone, so that the loss of a zone takes nobody else's way out; else one for all."
  type        = bool
}

variable "private_endpoints" {
  description = "Whether AWS's own services are reached inside the network rather than through NAT. S3 always is."
  type        = bool
}

variable "kubernetes_version" {
  description = "Minor version of Kubernetes. One step at a time upwards, never downwards."
  type        = string

  validation {
    condition     = can(regex("^1\\.[0-9]{2}$", var.kubernetes_version))
    error_message = "kubernetes_version must be a minor version such as 1.35"
  }
}

variable "api_access_cidrs" {
  description = "Networks from which the Kubernetes API answers, besides the cluster's own. None: it answers inside alone."
  type        = list(string)

  validation {
    condition     = alltrue([for cidr in var.api_access_cidrs : can(cidrnetmask(cidr)) && !endswith(cidr, "/0")])
    error_message = "api_access_cidrs must be IPv4 networks, and not the whole internet"
  }
}

variable "cluster_admins" {
  description = "ARNs of the IAM roles and users that administer the cluster. None: whoever applies."
  type        = list(string)
  default     = []

  validation {
    condition     = length(var.cluster_admins) > 0 || var.github_repository == null
    error_message = "cluster_admins must name somebody where workflows apply: else they alone would have the cluster"
  }
}

variable "system_pool" {
  description = "Nodes for what the cluster itself needs."
  type = object({
    instance_type = string
    min           = number
    max           = number
  })
}

variable "workload_pool" {
  description = "Nodes for Mainstay, and for what is installed beside it."
  type = object({
    instance_type = string
    min           = number
    max           = number
  })

  validation {
    condition     = var.workload_pool.min >= 1 && var.workload_pool.max >= var.workload_pool.min
    error_message = "workload_pool needs 1 <= min <= max"
  }
}

variable "workload" {
  description = "Mainstay's pods, as k8s/overlays/eks/<environment> asks for them."
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

variable "log_retention_days" {
  description = "How long the logs of the control plane and of the network are kept."
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
