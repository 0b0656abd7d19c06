# Whether the pods fit the nodes: the arithmetic of the scheduler, done before any node is paid for.

terraform {
  required_version = ">= 1.8"
}

variable "node" {
  description = "What one node offers to pods, after what its system and kubelet keep."
  type = object({
    cpu_millicores = number
    memory_mib     = number
    pods           = number
  })
}

variable "daemons" {
  description = "What the pods that run on every node ask for."
  type = object({
    cpu_millicores = number
    memory_mib     = number
    pods           = number
  })
}

variable "workload" {
  description = "What one Mainstay pod asks for (server and sidecar together), and how many there are."
  type = object({
    cpu_millicores = number
    memory_mib     = number
    replicas_min   = number
    replicas_max   = number
  })
}

variable "nodes_min" {
  description = "Fewest nodes of the pool."
  type        = number
}

variable "nodes_max" {
  description = "Most nodes of the pool."
  type        = number
}

variable "zones" {
  description = "Zones that the pool is spread over."
  type        = number
}

locals {
  by_cpu    = floor((var.node.cpu_millicores - var.daemons.cpu_millicores) / var.workload.cpu_millicores)
  by_memory = floor((var.node.memory_mib - var.daemons.memory_mib) / var.workload.memory_mib)
  by_pods   = var.node.pods - var.daemons.pods
  per_node  = min(local.by_cpu, local.by_memory, local.by_pods)

  # A rollout starts one pod more before it stops one (maxSurge 1).
  needed = var.workload.replicas_max + 1
  # What is left when the fullest zone is gone. One zone, or fewer nodes than zones, promise nothing about that.
  left_without_a_zone = var.zones == 1 || var.nodes_min < var.zones ? var.nodes_min : var.nodes_min - ceil(var.nodes_min / var.zones)
}

output "pods_per_node" {
  description = "Mainstay pods that fit one node."
  value       = local.per_node

  precondition {
    condition     = local.per_node >= 1
    error_message = "no Mainstay pod fits a node: ${local.by_cpu} by processor, ${local.by_memory} by memory, ${local.by_pods} by number of pods; take a larger node"
  }
}

output "pods_max" {
  description = "Mainstay pods that fit the pool at its largest."
  value       = local.per_node * var.nodes_max

  precondition {
    condition     = local.per_node * var.nodes_max >= local.needed
    error_message = "the pool holds ${local.per_node * var.nodes_max} Mainstay pods at most, and ${local.needed} may be wanted during a rollout; raise the pool's maximum"
  }
}

output "pods_without_a_zone" {
  description = "Mainstay pods that the smallest pool holds when its fullest zone is gone."
  value       = local.per_node * local.left_without_a_zone

  precondition {
    condition     = local.per_node * local.left_without_a_zone >= var.workload.replicas_min
    error_message = "the pool at its smallest holds ${local.per_node * local.left_without_a_zone} Mainstay pods when a zone is gone, and ${var.workload.replicas_min} must run; raise the pool's minimum"
  }
}
