# dev.tfvars, with a provider that only pretends.

mock_provider "aws" {
  source = "./tests/mocks"
}

# m7i-flex.large, as EC2 describes it.
override_data {
  target = data.aws_ec2_instance_type.workload
  values = {
    default_vcpus                        = 2
    memory_size                          = 8192
    maximum_network_interfaces           = 3
    maximum_ipv4_addresses_per_interface = 10
  }
}

run "variables" {
  module {
    source = "../modules/tfvars"
  }

  variables {
    file = "dev.tfvars"
  }
}

# Applied, since what a policy says is only known then.
run "dev" {
  variables {
    environment         = run.variables.values.environment
    region              = run.variables.values.region
    vpc_cidr            = run.variables.values.vpc_cidr
    nat_per_zone        = run.variables.values.nat_per_zone
    private_endpoints   = run.variables.values.private_endpoints
    kubernetes_version  = run.variables.values.kubernetes_version
    api_access_cidrs    = run.variables.values.api_access_cidrs
    system_pool         = run.variables.values.system_pool
    workload_pool       = run.variables.values.workload_pool
    workload            = run.variables.values.workload
    deletion_protection = run.variables.values.deletion_protection
    log_retention_days  = run.variables.values.log_retention_days
    github_repository   = "example/mainstay"
    cluster_admins      = ["arn:aws:iam::123456789012:role/operators"]
  }

  # Two processors less 70m kept and 280m of daemons hold three pods of 550m.
  assert {
    condition     = output.pods_per_node == 3
    error_message = "a workload node holds ${output.pods_per_node} pods"
  }

  assert {
    condition     = output.kubeconfig_command == "aws eks update-kubeconfig --region eu-central-1 --name mainstay-dev"
    error_message = "kubeconfig_command is ${output.kubeconfig_command}"
  }

  assert {
    condition     = output.artifacts_uri == "s3://mainstay-dev-models-123456789012/"
    error_message = "artifacts_uri is ${output.artifacts_uri}"
  }

  assert {
    condition     = length(aws_nat_gateway.this) == 1 && length(distinct([for table in aws_route_table.private : one(table.route).nat_gateway_id])) == 1
    error_message = "dev pays for more than one NAT gateway"
  }

  assert {
    condition     = alltrue([for subnet in aws_subnet.public : !subnet.map_public_ip_on_launch]) && alltrue([for subnet in aws_subnet.private : subnet.map_public_ip_on_launch != true])
    error_message = "a node may get a public address"
  }

  assert {
    condition     = aws_eks_cluster.this.vpc_config[0].endpoint_private_access && !aws_eks_cluster.this.vpc_config[0].endpoint_public_access
    error_message = "the API answers outside though no network is named"
  }

  assert {
    condition     = aws_launch_template.node.metadata_options[0].http_tokens == "required" && aws_launch_template.node.metadata_options[0].http_put_response_hop_limit == 1
    error_message = "a pod can be its node"
  }

  # The identity is exactly one service account of exactly one cluster.
  assert {
    condition = jsondecode(aws_iam_role.mainstay.assume_role_policy).Statement == [{
      Effect    = "Allow"
      Action    = ["sts:AssumeRole", "sts:TagSession"]
      Principal = { Service = "pods.eks.amazonaws.com" }
      Condition = {
        StringEquals = {
          "aws:SourceAccount"                         = "123456789012"
          "aws:RequestTag/eks-cluster-arn"            = "arn:aws:eks:eu-central-1:123456789012:cluster/mainstay-dev"
          "aws:RequestTag/kubernetes-namespace"       = "mainstay-dev"
          "aws:RequestTag/kubernetes-service-account" = "mainstay"
        }
      }
    }]
    error_message = "somebody else can be Mainstay's pod: ${aws_iam_role.mainstay.assume_role_policy}"
  }

  assert {
    condition     = aws_eks_pod_identity_association.mainstay.namespace == "mainstay-dev" && aws_eks_pod_identity_association.mainstay.service_account == "mainstay"
    error_message = "the role is tied to another service account"
  }

  # It reads one bucket and does nothing else.
  assert {
    condition     = toset(flatten([for statement in jsondecode(aws_iam_role_policy.mainstay.policy).Statement : statement.Action])) == toset(["s3:GetObject", "s3:ListBucket", "kms:Decrypt"])
    error_message = "the pod may do more than read"
  }

  assert {
    condition = toset(flatten([for statement in jsondecode(aws_iam_role_policy.mainstay.policy).Statement : statement.Resource])) == toset([
      "arn:aws:s3:::models", "arn:aws:s3:::models/*", "arn:aws:kms:eu-central-1:123456789012:key/0"
    ])
    error_message = "the pod may read more than its bucket"
  }

  assert {
    condition = alltrue([
      aws_s3_bucket_public_access_block.artifacts.block_public_acls,
      aws_s3_bucket_public_access_block.artifacts.block_public_policy,
      aws_s3_bucket_public_access_block.artifacts.ignore_public_acls,
      aws_s3_bucket_public_access_block.artifacts.restrict_public_buckets,
    ])
    error_message = "the bucket may become public"
  }

  assert {
    condition     = aws_s3_bucket_versioning.artifacts.versioning_configuration[0].status == "Enabled"
    error_message = "an overwritten model is lost"
  }

  # All of the bucket's own policy forbids: nothing in it lets anybody in.
  assert {
    condition     = alltrue([for statement in jsondecode(aws_s3_bucket_policy.artifacts.policy).Statement : statement.Effect == "Deny"])
    error_message = "the bucket's policy lets somebody in"
  }

  assert {
    condition     = contains([for statement in jsondecode(aws_s3_bucket_policy.artifacts.policy).Statement : try(statement.Condition.Bool["aws:SecureTransport"], "")], "false")
    error_message = "the bucket answers without TLS"
  }

  assert {
    condition     = aws_ecr_repository.this.image_tag_mutability == "IMMUTABLE" && aws_ecr_repository.this.image_scanning_configuration[0].scan_on_push
    error_message = "a tag can be moved, or images are not scanned"
  }

  # A publishing job must be in the protected environment: a branch or a pull request is not enough.
  assert {
    condition     = jsondecode(aws_iam_role.publisher[0].assume_role_policy).Statement[0].Condition.StringEquals["token.actions.githubusercontent.com:sub"] == "repo:example/mainstay:environment:release"
    error_message = "another job can publish"
  }

  assert {
    condition = alltrue([
      for role in [aws_iam_role.cluster, aws_iam_role.node, aws_iam_role.mainstay, aws_iam_role.publisher[0], aws_iam_role.cluster_autoscaler, aws_iam_role.load_balancer_controller, aws_iam_role.ebs_csi, aws_iam_role.flow_log] :
      role.permissions_boundary == "arn:aws:iam::123456789012:policy/mainstay-dev-boundary"
    ])
    error_message = "a role has no boundary"
  }
}

run "nobody_publishes_unless_a_repository_is_named" {
  command = plan

  variables {
    environment         = run.variables.values.environment
    region              = run.variables.values.region
    vpc_cidr            = run.variables.values.vpc_cidr
    nat_per_zone        = run.variables.values.nat_per_zone
    private_endpoints   = run.variables.values.private_endpoints
    kubernetes_version  = run.variables.values.kubernetes_version
    api_access_cidrs    = run.variables.values.api_access_cidrs
    system_pool         = run.variables.values.system_pool
    workload_pool       = run.variables.values.workload_pool
    workload            = run.variables.values.workload
    deletion_protection = run.variables.values.deletion_protection
    log_retention_days  = run.variables.values.log_retention_days
  }

  assert {
    condition     = length(aws_iam_role.publisher) == 0
    error_message = "there is a publisher for nobody"
  }
}

run "the_whole_internet_is_no_network_to_let_in" {
  command = plan

  variables {
    environment         = run.variables.values.environment
    region              = run.variables.values.region
    vpc_cidr            = run.variables.values.vpc_cidr
    nat_per_zone        = run.variables.values.nat_per_zone
    private_endpoints   = run.variables.values.private_endpoints
    kubernetes_version  = run.variables.values.kubernetes_version
    api_access_cidrs    = ["0.0.0.0/0"]
    system_pool         = run.variables.values.system_pool
    workload_pool       = run.variables.values.workload_pool
    workload            = run.variables.values.workload
    deletion_protection = run.variables.values.deletion_protection
    log_retention_days  = run.variables.values.log_retention_days
  }

  expect_failures = [var.api_access_cidrs]
}

run "workflows_are_not_the_only_ones_with_a_cluster" {
  command = plan

  variables {
    environment         = run.variables.values.environment
    region              = run.variables.values.region
    vpc_cidr            = run.variables.values.vpc_cidr
    nat_per_zone        = run.variables.values.nat_per_zone
    private_endpoints   = run.variables.values.private_endpoints
    kubernetes_version  = run.variables.values.kubernetes_version
    api_access_cidrs    = run.variables.values.api_access_cidrs
    system_pool         = run.variables.values.system_pool
    workload_pool       = run.variables.values.workload_pool
    workload            = run.variables.values.workload
    deletion_protection = run.variables.values.deletion_protection
    log_retention_days  = run.variables.values.log_retention_days
    github_repository   = "example/mainstay"
  }

  expect_failures = [var.cluster_admins]
}
