# stage.tfvars, with a provider that only pretends.

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
    file = "stage.tfvars"
  }
}


run "stage" {
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

  # Two processors less 70m kept and 280m of daemons hold three pods of 550m.
  assert {
    condition     = output.pods_per_node == 3
    error_message = "a workload node holds ${output.pods_per_node} pods"
  }

  assert {
    condition     = aws_eks_cluster.this.deletion_protection
    error_message = "the cluster is not protected"
  }

  assert {
    condition     = output.kubeconfig_command == "aws eks update-kubeconfig --region eu-central-1 --name mainstay-stage"
    error_message = "kubeconfig_command is ${output.kubeconfig_command}"
  }

  assert {
    condition     = output.pod_identity_subject == "system:serviceaccount:mainstay-stage:mainstay"
    error_message = "the identity is for ${output.pod_identity_subject}"
  }

  assert {
    condition     = aws_eks_node_group.workload.scaling_config[0].min_size >= 3
    error_message = "a zone has no workload node"
  }
}
