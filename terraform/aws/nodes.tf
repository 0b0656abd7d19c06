# Two pools: the cluster's own pods cannot starve Mainstay, nor the other way round.

data "aws_ec2_instance_type" "workload" {
  instance_type = var.workload_pool.instance_type
}

locals {
  vcpus = data.aws_ec2_instance_type.workload.default_vcpus

  # An address of the network for each pod: one per interface is the interface's own, and two pods use the node's.
  pods_by_addresses = (
    data.aws_ec2_instance_type.workload.maximum_network_interfaces *
    (data.aws_ec2_instance_type.workload.maximum_ipv4_addresses_per_interface - 1) + 2
  )
  # EKS allows no more on nodes of fewer than 30 processors.
  pods_per_node_max = min(local.pods_by_addresses, 110)

  # What kubelet keeps: of processors 6 % of the first, 1 % of the second, 0.5 % of two more, 0.25 % of the rest; of memory
  # 255 MiB and 11 for each pod, and 100 below which it evicts. Some 7.5 % of the memory that is sold never reaches Linux.
  cpu_kept    = 60 + (local.vcpus >= 2 ? 10 : 0) + 5 * min(max(local.vcpus - 2, 0), 2) + 2.5 * max(local.vcpus - 4, 0)
  memory_kept = 255 + 11 * local.pods_per_node_max + 100
}

module "fit" {
  source = "../modules/fit"

  node = {
    cpu_millicores = 1000 * local.vcpus - local.cpu_kept
    memory_mib     = floor(data.aws_ec2_instance_type.workload.memory_size * 0.925) - local.memory_kept
    pods           = local.pods_per_node_max
  }
  # aws-node, kube-proxy, ebs-csi-node, eks-pod-identity-agent, and one of the operator's, such as a log collector.
  daemons = {
    cpu_millicores = 280
    memory_mib     = 300
    pods           = 5
  }
  workload  = var.workload
  nodes_min = var.workload_pool.min
  nodes_max = var.workload_pool.max
  zones     = length(local.zones)
}

resource "aws_iam_role" "node" {
  name                 = "${local.name}-node"
  permissions_boundary = local.permissions_boundary
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "ec2.${local.dns_suffix}" }
    }]
  })
}

resource "aws_iam_role_policy_attachment" "node" {
  for_each = toset(["AmazonEKSWorkerNodePolicy", "AmazonEKS_CNI_Policy", "AmazonEC2ContainerRegistryPullOnly"])

  role       = aws_iam_role.node.name
  policy_arn = "arn:${local.partition}:iam::aws:policy/${each.key}"
}

resource "aws_launch_template" "node" {
  name                   = "${local.name}-node"
  update_default_version = true

  # Bottlerocket has its system on the first disk, which cannot be written, and images and pods on the second.
  block_device_mappings {
    device_name = "/dev/xvdb"

    ebs {
      volume_type           = "gp3"
      volume_size           = 50
      encrypted             = true
      delete_on_termination = true
    }
  }

  # Nobody without a session token, and no pod: its packets are one hop too far.
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
    instance_metadata_tags      = "disabled"
  }

  monitoring {
    enabled = true
  }

  tag_specifications {
    resource_type = "instance"
    tags          = { Name = "${local.name}-node", project = var.name, environment = var.environment }
  }

  tag_specifications {
    resource_type = "volume"
    tags          = { Name = "${local.name}-node", project = var.name, environment = var.environment }
  }
}

resource "aws_eks_node_group" "system" {
  cluster_name    = aws_eks_cluster.this.name
  node_group_name = "system"
  node_role_arn   = aws_iam_role.node.arn
  subnet_ids      = [for subnet in aws_subnet.private : subnet.id]
  version         = var.kubernetes_version
  ami_type        = "BOTTLEROCKET_x86_64"
  instance_types  = [var.system_pool.instance_type]
  labels          = { "mainstay/pool" = "system" }

  launch_template {
    id      = aws_launch_template.node.id
    version = aws_launch_template.node.latest_version
  }

  scaling_config {
    min_size     = var.system_pool.min
    max_size     = var.system_pool.max
    desired_size = var.system_pool.min
  }

  taint {
    key    = "CriticalAddonsOnly"
    value  = "true"
    effect = "NO_SCHEDULE"
  }

  update_config {
    max_unavailable = 1
  }

  node_repair_config {
    enabled = true
  }

  lifecycle {
    # The autoscaler's.
    ignore_changes = [scaling_config[0].desired_size]
  }

  depends_on = [
    aws_eks_addon.before_nodes,
    aws_iam_role_policy_attachment.node,
    aws_nat_gateway.this,
    aws_route_table_association.private,
  ]
}

resource "aws_eks_node_group" "workload" {
  cluster_name    = aws_eks_cluster.this.name
  node_group_name = "workload"
  node_role_arn   = aws_iam_role.node.arn
  subnet_ids      = [for subnet in aws_subnet.private : subnet.id]
  version         = var.kubernetes_version
  ami_type        = "BOTTLEROCKET_x86_64"
  instance_types  = [var.workload_pool.instance_type]
  labels          = { "mainstay/pool" = "workload" }

  launch_template {
    id      = aws_launch_template.node.id
    version = aws_launch_template.node.latest_version
  }

  scaling_config {
    min_size     = var.workload_pool.min
    max_size     = var.workload_pool.max
    desired_size = var.workload_pool.min
  }

  update_config {
    max_unavailable = 1
  }

  node_repair_config {
    enabled = true
  }

  lifecycle {
    # The autoscaler's.
    ignore_changes = [scaling_config[0].desired_size]
  }

  depends_on = [
    aws_eks_addon.before_nodes,
    aws_iam_role_policy_attachment.node,
    aws_nat_gateway.this,
    aws_route_table_association.private,
  ]
}
