data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_iam_session_context" "current" {
  arn = data.aws_caller_identity.current.arn
}

locals {
  name       = "${var.name}-${var.environment}"
  account    = data.aws_caller_identity.current.account_id
  partition  = data.aws_partition.current.partition
  dns_suffix = data.aws_partition.current.dns_suffix
  namespace  = coalesce(var.namespace, "mainstay-${var.environment}")

  # Made by bootstrap/. What the environment's roles may do at most, whoever writes their policies.
  permissions_boundary = "arn:${local.partition}:iam::${local.account}:policy/${local.name}-boundary"
}

module "guard" {
  source = "../modules/guard"

  environment         = var.environment
  deletion_protection = var.deletion_protection
  protects = [
    aws_default_security_group.this.id,
    aws_eks_access_policy_association.admin[*],
    aws_eks_addon.after_nodes,
    aws_eks_node_group.workload.id,
    aws_eks_pod_identity_association.cluster_autoscaler.id,
    aws_eks_pod_identity_association.load_balancer_controller.id,
    aws_eks_pod_identity_association.mainstay.id,
    aws_ecr_lifecycle_policy.this.id,
    aws_flow_log.this.id,
    aws_iam_role_policy.cluster_autoscaler.id,
    aws_iam_role_policy.flow_log.id,
    aws_iam_role_policy.load_balancer_controller.id,
    aws_iam_role_policy.mainstay.id,
    aws_iam_role_policy.publisher[*].id,
    aws_kms_alias.artifacts.id,
    aws_kms_alias.cluster.id,
    aws_route_table_association.control_plane,
    aws_route_table_association.private,
    aws_route_table_association.public,
    aws_s3_bucket_lifecycle_configuration.artifacts.id,
    aws_s3_bucket_lifecycle_configuration.logs.id,
    aws_s3_bucket_logging.artifacts.id,
    aws_s3_bucket_ownership_controls.artifacts.id,
    aws_s3_bucket_policy.artifacts.id,
    aws_s3_bucket_policy.logs.id,
    aws_s3_bucket_server_side_encryption_configuration.artifacts.id,
    aws_s3_bucket_server_side_encryption_configuration.logs.id,
    aws_vpc_endpoint.interface,
    aws_vpc_endpoint.s3.id,
  ]
}
