# Two keys, so that whoever may read models may not read the cluster's secrets.

locals {
  # The account decides by IAM who uses a key. Without this statement nobody could change the key any more.
  key_owner = {
    Sid       = "AccountDecidesByIam"
    Effect    = "Allow"
    Principal = { AWS = "arn:${local.partition}:iam::${local.account}:root" }
    Action    = "kms:*"
    Resource  = "*"
  }
}

resource "aws_kms_key" "cluster" {
  description             = "${local.name}: secrets in etcd, and logs"
  enable_key_rotation     = true
  deletion_window_in_days = var.deletion_protection ? 30 : 7
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      local.key_owner,
      {
        Sid       = "LogsOfThisEnvironment"
        Effect    = "Allow"
        Principal = { Service = "logs.${var.region}.${local.dns_suffix}" }
        Action    = ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey"]
        Resource  = "*"
        Condition = {
          ArnLike = {
            "kms:EncryptionContext:aws:logs:arn" = [
              "arn:${local.partition}:logs:${var.region}:${local.account}:log-group:/aws/vpc/${local.name}/*",
              "arn:${local.partition}:logs:${var.region}:${local.account}:log-group:/aws/eks/${local.name}/*",
            ]
          }
        }
      },
    ]
  })
}

resource "aws_kms_alias" "cluster" {
  name          = "alias/${local.name}-cluster"
  target_key_id = aws_kms_key.cluster.id
}

resource "aws_kms_key" "artifacts" {
  description             = "${local.name}: models and images"
  enable_key_rotation     = true
  deletion_window_in_days = var.deletion_protection ? 30 : 7
  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [local.key_owner]
  })
}

resource "aws_kms_alias" "artifacts" {
  name          = "alias/${local.name}-artifacts"
  target_key_id = aws_kms_key.artifacts.id
}
