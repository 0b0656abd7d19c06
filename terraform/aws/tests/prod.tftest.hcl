# prod.tfvars, applied with a provider that only pretends.

mock_provider "aws" {
  source = "./tests/mocks"
}

run "variables" {
  module {
    source = "../modules/tfvars"
  }

  variables {
    file = "prod.tfvars"
  }
}

run "prod" {
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
    condition     = aws_eks_cluster.this.deletion_protection
    error_message = "the cluster is not protected"
  }

  assert {
    condition     = !aws_s3_bucket.artifacts.force_destroy && !aws_ecr_repository.this.force_delete
    error_message = "models or images would be deleted with their container"
  }

  assert {
    condition     = output.kubeconfig_command == "aws eks update-kubeconfig --region eu-central-1 --name mainstay-prod"
    error_message = "kubeconfig_command is ${output.kubeconfig_command}"
  }

  assert {
    condition     = output.pod_identity_subject == "system:serviceaccount:mainstay-prod:mainstay"
    error_message = "the identity is for ${output.pod_identity_subject}"
  }

  # Four processors less 80m kept and 280m of daemons hold six pods of 550m.
  assert {
    condition     = output.pods_per_node == 6
    error_message = "a workload node holds ${output.pods_per_node} pods"
  }

  assert {
    condition     = length(aws_nat_gateway.this) == 3
    error_message = "a zone's way out goes through another zone"
  }

  assert {
    condition     = alltrue([for rule in aws_security_group.endpoints[0].ingress : alltrue([for cidr in rule.cidr_blocks : startswith(cidr, "10.0.")])])
    error_message = "AWS's services inside the network answer outside of it"
  }

  assert {
    condition     = aws_eks_node_group.workload.scaling_config[0].min_size >= 3 && aws_eks_node_group.system.scaling_config[0].min_size >= 3
    error_message = "a zone has no node"
  }

  assert {
    condition     = length(aws_vpc_endpoint.interface) == 6
    error_message = "AWS's services are reached through NAT"
  }

  assert {
    condition     = aws_cloudwatch_log_group.cluster.retention_in_days == 365
    error_message = "prod's audit log is kept for ${aws_cloudwatch_log_group.cluster.retention_in_days} days"
  }
}
