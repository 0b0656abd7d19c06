mock_provider "aws" {
  mock_data "aws_caller_identity" {
    defaults = {
      account_id = "123456789012"
    }
  }

  mock_data "aws_partition" {
    defaults = {
      partition = "aws"
    }
  }
}

variables {
  environment       = "prod"
  github_repository = "example/mainstay"
}

run "prod" {
  # The bucket of a state is never destroyed, not even here: so nothing is applied.
  command = plan

  assert {
    condition     = jsondecode(aws_iam_role.apply[0].assume_role_policy).Statement[0].Condition.StringEquals["token.actions.githubusercontent.com:sub"] == "repo:example/mainstay:environment:infrastructure-aws-prod"
    error_message = "a job outside the protected environment can apply"
  }

  assert {
    condition     = jsondecode(aws_iam_role.plan[0].assume_role_policy).Statement[0].Condition.StringEquals["token.actions.githubusercontent.com:sub"] == "repo:example/mainstay:environment:infrastructure-plan"
    error_message = "a job outside its environment can plan"
  }

  # Who plans only looks: no verb that changes anything.
  assert {
    condition = alltrue([
      for action in flatten([for statement in jsondecode(aws_iam_role_policy.plan[0].policy).Statement : statement.Action]) :
      can(regex("^[a-z0-9]+:(Describe|Get|List)", action))
    ])
    error_message = "the planning role may change something"
  }

  # And of objects it reads the one state.
  assert {
    condition = flatten([
      for statement in jsondecode(aws_iam_role_policy.plan[0].policy).Statement : statement.Resource if contains(statement.Action, "s3:GetObject")
    ]) == ["arn:aws:s3:::mainstay-prod-tfstate-123456789012/aws/prod/terraform.tfstate"]
    error_message = "the planning role reads more than its state"
  }

  assert {
    condition     = [for action in flatten([for statement in jsondecode(aws_iam_policy.boundary.policy).Statement : statement.Action]) : action if startswith(action, "iam:")] == ["iam:CreateServiceLinkedRole"]
    error_message = "a role of the environment may make others"
  }

  assert {
    condition     = alltrue([aws_s3_bucket_public_access_block.state.block_public_acls, aws_s3_bucket_public_access_block.state.block_public_policy, aws_s3_bucket_public_access_block.state.ignore_public_acls, aws_s3_bucket_public_access_block.state.restrict_public_buckets])
    error_message = "a state may become public"
  }
}

run "no_workflow_gets_a_role_unless_a_repository_is_named" {
  command = plan

  variables {
    github_repository = null
  }

  assert {
    condition     = length(aws_iam_role.plan) + length(aws_iam_role.apply) + length(aws_iam_openid_connect_provider.github) == 0
    error_message = "there is a role for nobody"
  }
}
