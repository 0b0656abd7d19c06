# What must be there before the environment's own Terraform can run, applied once by an administrator: where its state lies,
# who plans and who applies, and what those can give away at most. docs/terraform-aws.md says how.

terraform {
  required_version = ">= 1.10"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.66.0"
    }
  }

  backend "s3" {}
}

variable "environment" {
  description = "dev, stage or prod."
  type        = string

  validation {
    condition     = contains(["dev", "stage", "prod"], var.environment)
    error_message = "environment must be dev, stage or prod"
  }
}

variable "name" {
  description = "What every name begins with, as in the environment's own variables."
  type        = string
  default     = "mainstay"
}

variable "region" {
  description = "Where the state lies, as in backends/."
  type        = string
  default     = "eu-central-1"
}

variable "github_repository" {
  description = "OWNER/NAME of the repository whose workflows plan and apply; null: none does."
  type        = string
  default     = null

  validation {
    condition     = var.github_repository == null || can(regex("^[A-Za-z0-9-]+/[A-Za-z0-9._-]+$", var.github_repository))
    error_message = "github_repository must be OWNER/NAME"
  }
}

variable "github_environment" {
  description = "Protected GitHub environment of the applying job; null: infrastructure-aws-<environment>."
  type        = string
  default     = null
}

variable "github_plan_environment" {
  description = "GitHub environment of the planning job."
  type        = string
  default     = "infrastructure-plan"
}

variable "github_provider" {
  description = "Whether to make the account's GitHub identity provider: an account has one, so only its first environment makes it."
  type        = bool
  default     = true
}

provider "aws" {
  region = var.region

  default_tags {
    tags = {
      project     = var.name
      environment = var.environment
      managed-by  = "terraform-bootstrap"
    }
  }
}

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

locals {
  name      = "${var.name}-${var.environment}"
  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition
  bucket    = "${local.name}-tfstate-${local.account}"
  state_key = "aws/${var.environment}/terraform.tfstate"
  github    = "token.actions.githubusercontent.com"
  workflows = var.github_repository == null ? 0 : 1
}

resource "aws_s3_bucket" "state" {
  #checkov:skip=CKV_AWS_18:the account's trail says who read a state; a bucket for that before there is any bucket goes in circles
  #checkov:skip=CKV_AWS_144:what is lost can be imported again; versions are the backup
  #checkov:skip=CKV_AWS_145:under S3's own key, so that a lost key cannot take the state with it; a state here holds no secret
  #checkov:skip=CKV2_AWS_62:nothing waits for an event
  bucket = local.bucket

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_s3_bucket_versioning" "state" {
  bucket = aws_s3_bucket.state.id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "state" {
  bucket = aws_s3_bucket.state.id

  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm = "AES256"
    }
  }
}

resource "aws_s3_bucket_public_access_block" "state" {
  bucket = aws_s3_bucket.state.id

  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_policy" "state" {
  bucket = aws_s3_bucket.state.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "OnlyOverTls"
      Effect    = "Deny"
      Principal = "*"
      Action    = "s3:*"
      Resource  = ["arn:${local.partition}:s3:::${local.bucket}", "arn:${local.partition}:s3:::${local.bucket}/*"]
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }]
  })

  depends_on = [aws_s3_bucket_public_access_block.state]
}

resource "aws_s3_bucket_lifecycle_configuration" "state" {
  bucket = aws_s3_bucket.state.id

  rule {
    id     = "keep-a-year-of-states"
    status = "Enabled"

    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }

    noncurrent_version_expiration {
      noncurrent_days = 365
    }
  }

  depends_on = [aws_s3_bucket_versioning.state]
}

# Every role of the environment has this boundary. Whoever may write a role's policy still cannot give it more than this: no
# role, no user, no key of another service.
resource "aws_iam_policy" "boundary" {
  #checkov:skip=CKV_AWS_286:a boundary gives nothing by itself, it only limits
  #checkov:skip=CKV_AWS_287:likewise
  #checkov:skip=CKV_AWS_288:likewise
  #checkov:skip=CKV_AWS_289:likewise
  #checkov:skip=CKV_AWS_290:likewise
  #checkov:skip=CKV_AWS_355:likewise
  name        = "${local.name}-boundary"
  description = "What the roles of ${local.name} may do at most"
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Effect = "Allow"
        Action = [
          "acm:Describe*",
          "acm:List*",
          "autoscaling:*",
          "ec2:*",
          "ecr:*",
          "eks:*",
          "eks-auth:AssumeRoleForPodIdentity",
          "elasticloadbalancing:*",
          "kms:CreateGrant",
          "kms:Decrypt",
          "kms:DescribeKey",
          "kms:Encrypt",
          "kms:GenerateDataKey*",
          "kms:ReEncrypt*",
          "logs:*",
          "s3:*",
          "sts:AssumeRole",
          "sts:TagSession",
          "wafv2:Get*",
        ]
        Resource = ["*"]
      },
      {
        # The control plane makes the role of load balancers once in an account.
        Effect    = "Allow"
        Action    = ["iam:CreateServiceLinkedRole"]
        Resource  = ["*"]
        Condition = { StringEquals = { "iam:AWSServiceName" = "elasticloadbalancing.amazonaws.com" } }
      },
      {
        Effect   = "Deny"
        Action   = ["s3:*"]
        Resource = ["arn:${local.partition}:s3:::${local.bucket}", "arn:${local.partition}:s3:::${local.bucket}/*"]
      },
    ]
  })
}

resource "aws_iam_openid_connect_provider" "github" {
  count = local.workflows == 1 && var.github_provider ? 1 : 0

  url            = "https://${local.github}"
  client_id_list = ["sts.amazonaws.com"]
}

locals {
  # A job is known by the environment that it runs in. Forks get no token at all.
  subjects = {
    plan  = "repo:${coalesce(var.github_repository, "-")}:environment:${var.github_plan_environment}"
    apply = "repo:${coalesce(var.github_repository, "-")}:environment:${coalesce(var.github_environment, "infrastructure-aws-${var.environment}")}"
  }

  trust = {
    for job, subject in local.subjects : job => jsonencode({
      Version = "2012-10-17"
      Statement = [{
        Effect    = "Allow"
        Action    = "sts:AssumeRoleWithWebIdentity"
        Principal = { Federated = "arn:${local.partition}:iam::${local.account}:oidc-provider/${local.github}" }
        Condition = { StringEquals = { "${local.github}:aud" = "sts.amazonaws.com", "${local.github}:sub" = subject } }
      }]
    })
  }
}

# Plans without a lock (-lock=false): it writes nothing anywhere.
resource "aws_iam_role" "plan" {
  count = local.workflows

  name                 = "${local.name}-plan"
  max_session_duration = 3600
  assume_role_policy   = local.trust.plan
}

resource "aws_iam_role_policy" "plan" {
  #checkov:skip=CKV_AWS_355:Describe and List know no resources for most of these services
  count = local.workflows

  name = "look"
  role = aws_iam_role.plan[0].id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Effect = "Allow"
        Action = [
          "ec2:Describe*",
          "ecr:DescribeRepositories",
          "ecr:GetLifecyclePolicy",
          "ecr:GetRepositoryPolicy",
          "ecr:ListTagsForResource",
          "eks:Describe*",
          "eks:List*",
          "iam:GetRole",
          "iam:GetRolePolicy",
          "iam:ListAttachedRolePolicies",
          "iam:ListRolePolicies",
          "kms:DescribeKey",
          "kms:GetKeyPolicy",
          "kms:GetKeyRotationStatus",
          "kms:ListAliases",
          "kms:ListResourceTags",
          "logs:DescribeLogGroups",
          "logs:ListTagsForResource",
          "s3:GetAccelerateConfiguration",
          "s3:GetBucket*",
          "s3:GetEncryptionConfiguration",
          "s3:GetLifecycleConfiguration",
          "s3:GetReplicationConfiguration",
        ]
        Resource = ["*"]
      },
      {
        Effect   = "Allow"
        Action   = ["s3:ListBucket"]
        Resource = ["arn:${local.partition}:s3:::${local.name}-*"]
      },
      {
        Effect   = "Allow"
        Action   = ["s3:GetObject"]
        Resource = ["arn:${local.partition}:s3:::${local.bucket}/${local.state_key}"]
      },
    ]
  })
}

resource "aws_iam_role" "apply" {
  count = local.workflows

  name                 = "${local.name}-apply"
  max_session_duration = 7200
  assume_role_policy   = local.trust.apply
}

resource "aws_iam_policy" "apply" {
  #checkov:skip=CKV_AWS_286:roles can be made under the boundary alone, and only the environment's
  #checkov:skip=CKV_AWS_287:it makes the cluster and its network; what it makes next has no name yet
  #checkov:skip=CKV_AWS_288:likewise
  #checkov:skip=CKV_AWS_289:likewise
  #checkov:skip=CKV_AWS_290:likewise
  #checkov:skip=CKV_AWS_355:likewise
  #checkov:skip=CKV2_AWS_40:IAM is bound to the environment's own roles below, each under the boundary
  count = local.workflows

  name        = "${local.name}-apply"
  description = "What applying ${local.name} takes"
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid      = "NetworkAndCluster"
        Effect   = "Allow"
        Action   = ["ec2:*", "eks:*", "ecr:*", "kms:*", "logs:*", "autoscaling:Describe*", "elasticloadbalancing:Describe*"]
        Resource = ["*"]
      },
      {
        Sid      = "Buckets"
        Effect   = "Allow"
        Action   = ["s3:*"]
        Resource = ["arn:${local.partition}:s3:::${local.name}-*", "arn:${local.partition}:s3:::${local.name}-*/*"]
      },
      {
        Sid      = "StateStays"
        Effect   = "Deny"
        Action   = ["s3:DeleteBucket", "s3:DeleteBucketPolicy", "s3:DeleteObjectVersion", "s3:PutBucket*", "s3:PutLifecycleConfiguration"]
        Resource = ["arn:${local.partition}:s3:::${local.bucket}", "arn:${local.partition}:s3:::${local.bucket}/*"]
      },
      {
        Sid      = "LookAtRoles"
        Effect   = "Allow"
        Action   = ["iam:GetRole", "iam:GetRolePolicy", "iam:ListAttachedRolePolicies", "iam:ListInstanceProfilesForRole", "iam:ListRolePolicies"]
        Resource = ["*"]
      },
      {
        Sid    = "RolesOfTheEnvironmentUnderTheBoundary"
        Effect = "Allow"
        Action = [
          "iam:AttachRolePolicy",
          "iam:CreateRole",
          "iam:DeleteRolePolicy",
          "iam:DetachRolePolicy",
          "iam:PutRolePermissionsBoundary",
          "iam:PutRolePolicy",
        ]
        Resource  = ["arn:${local.partition}:iam::${local.account}:role/${local.name}-*"]
        Condition = { StringEquals = { "iam:PermissionsBoundary" = aws_iam_policy.boundary.arn } }
      },
      {
        Sid      = "RolesOfTheEnvironment"
        Effect   = "Allow"
        Action   = ["iam:DeleteRole", "iam:PassRole", "iam:TagRole", "iam:UntagRole", "iam:UpdateAssumeRolePolicy", "iam:UpdateRole"]
        Resource = ["arn:${local.partition}:iam::${local.account}:role/${local.name}-*"]
      },
      {
        Sid    = "NeverTheirOwn"
        Effect = "Deny"
        Action = ["iam:*"]
        Resource = [
          "arn:${local.partition}:iam::${local.account}:role/${local.name}-plan",
          "arn:${local.partition}:iam::${local.account}:role/${local.name}-apply",
        ]
      },
      {
        Sid       = "RolesOfServices"
        Effect    = "Allow"
        Action    = ["iam:CreateServiceLinkedRole"]
        Resource  = ["*"]
        Condition = { StringEquals = { "iam:AWSServiceName" = ["eks.amazonaws.com", "eks-nodegroup.amazonaws.com", "autoscaling.amazonaws.com", "elasticloadbalancing.amazonaws.com"] } }
      },
    ]
  })
}

resource "aws_iam_role_policy_attachment" "apply" {
  count = local.workflows

  role       = aws_iam_role.apply[0].name
  policy_arn = aws_iam_policy.apply[0].arn
}

output "state_bucket" {
  description = "Bucket of the state: terraform init -backend-config=backends/<environment>.hcl -backend-config=bucket=THIS."
  value       = aws_s3_bucket.state.bucket
}

output "plan_role_arn" {
  description = "Role of the workflow that plans; null without github_repository."
  value       = one(aws_iam_role.plan[*].arn)
}

output "apply_role_arn" {
  description = "Role of the workflow that applies and destroys; null without github_repository."
  value       = one(aws_iam_role.apply[*].arn)
}
