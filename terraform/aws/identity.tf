# Who a pod is. Each role is for one service account of this cluster, and the session's tags, which EKS sets and nobody else
# can, say so again. No key exists that could leak.

locals {
  pods = {
    mainstay                 = { namespace = local.namespace, service_account = var.service_account }
    cluster_autoscaler       = { namespace = "kube-system", service_account = "cluster-autoscaler" }
    load_balancer_controller = { namespace = "kube-system", service_account = "aws-load-balancer-controller" }
    ebs_csi                  = { namespace = "kube-system", service_account = "ebs-csi-controller-sa" }
  }

  pod_trust = {
    for name, pod in local.pods : name => jsonencode({
      Version = "2012-10-17"
      Statement = [{
        Effect    = "Allow"
        Action    = ["sts:AssumeRole", "sts:TagSession"]
        Principal = { Service = "pods.eks.amazonaws.com" }
        Condition = {
          StringEquals = {
            "aws:SourceAccount"                         = local.account
            "aws:RequestTag/eks-cluster-arn"            = "arn:${local.partition}:eks:${var.region}:${local.account}:cluster/${local.name}"
            "aws:RequestTag/kubernetes-namespace"       = pod.namespace
            "aws:RequestTag/kubernetes-service-account" = pod.service_account
          }
        }
      }]
    })
  }
}

# Mainstay's sidecar reads models from one bucket, and does nothing else.
resource "aws_iam_role" "mainstay" {
  name                 = "${local.name}-pod"
  permissions_boundary = local.permissions_boundary
  assume_role_policy   = local.pod_trust.mainstay
}

resource "aws_iam_role_policy" "mainstay" {
  name = "read-models"
  role = aws_iam_role.mainstay.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Effect   = "Allow"
        Action   = ["s3:GetObject"]
        Resource = ["${aws_s3_bucket.artifacts.arn}/*"]
      },
      {
        # So that a missing model is said to be missing (404) rather than forbidden (403).
        Effect   = "Allow"
        Action   = ["s3:ListBucket"]
        Resource = [aws_s3_bucket.artifacts.arn]
      },
      {
        Effect    = "Allow"
        Action    = ["kms:Decrypt"]
        Resource  = [aws_kms_key.artifacts.arn]
        Condition = { StringEquals = { "kms:ViaService" = "s3.${var.region}.amazonaws.com" } }
      },
    ]
  })
}

resource "aws_eks_pod_identity_association" "mainstay" {
  cluster_name    = aws_eks_cluster.this.name
  namespace       = local.pods.mainstay.namespace
  service_account = local.pods.mainstay.service_account
  role_arn        = aws_iam_role.mainstay.arn
}

# Adds and removes nodes: the program itself is installed as docs/terraform-aws.md says.
resource "aws_iam_role" "cluster_autoscaler" {
  name                 = "${local.name}-cluster-autoscaler"
  permissions_boundary = local.permissions_boundary
  assume_role_policy   = local.pod_trust.cluster_autoscaler
}

resource "aws_iam_role_policy" "cluster_autoscaler" {
  #checkov:skip=CKV_AWS_355:the describing calls know no resources; the changing ones are bound to this cluster's groups
  name = "scale-this-cluster"
  role = aws_iam_role.cluster_autoscaler.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Effect = "Allow"
        Action = [
          "autoscaling:DescribeAutoScalingGroups",
          "autoscaling:DescribeAutoScalingInstances",
          "autoscaling:DescribeLaunchConfigurations",
          "autoscaling:DescribeScalingActivities",
          "autoscaling:DescribeTags",
          "ec2:DescribeImages",
          "ec2:DescribeInstanceTypes",
          "ec2:DescribeLaunchTemplateVersions",
          "ec2:GetInstanceTypesFromInstanceRequirements",
        ]
        Resource = ["*"]
      },
      {
        Effect   = "Allow"
        Action   = ["eks:DescribeNodegroup"]
        Resource = ["arn:${local.partition}:eks:${var.region}:${local.account}:nodegroup/${local.name}/*/*"]
      },
      {
        Effect    = "Allow"
        Action    = ["autoscaling:SetDesiredCapacity", "autoscaling:TerminateInstanceInAutoScalingGroup"]
        Resource  = ["arn:${local.partition}:autoscaling:${var.region}:${local.account}:autoScalingGroup:*"]
        Condition = { StringEquals = { "aws:ResourceTag/k8s.io/cluster-autoscaler/${local.name}" = "owned" } }
      },
    ]
  })
}

resource "aws_eks_pod_identity_association" "cluster_autoscaler" {
  cluster_name    = aws_eks_cluster.this.name
  namespace       = local.pods.cluster_autoscaler.namespace
  service_account = local.pods.cluster_autoscaler.service_account
  role_arn        = aws_iam_role.cluster_autoscaler.arn
}

# Makes load balancers for Gateways and Services: likewise.
resource "aws_iam_role" "load_balancer_controller" {
  name                 = "${local.name}-load-balancer-controller"
  permissions_boundary = local.permissions_boundary
  assume_role_policy   = local.pod_trust.load_balancer_controller
}

resource "aws_iam_role_policy" "load_balancer_controller" {
  #checkov:skip=CKV_AWS_355:looking knows no resources, and what is made has no name yet; changes are bound to this cluster's tag
  #checkov:skip=CKV_AWS_289:security groups of this VPC alone may be opened, and those with this cluster's tag
  #checkov:skip=CKV_AWS_290:making is bound to this cluster's tag on what is made, changing to the same tag on what is there
  name = "balance-this-cluster"
  role = aws_iam_role.load_balancer_controller.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid    = "Look"
        Effect = "Allow"
        Action = [
          "acm:DescribeCertificate",
          "acm:ListCertificates",
          "ec2:DescribeAccountAttributes",
          "ec2:DescribeAddresses",
          "ec2:DescribeAvailabilityZones",
          "ec2:DescribeCoipPools",
          "ec2:DescribeInstances",
          "ec2:DescribeInternetGateways",
          "ec2:DescribeIpamPools",
          "ec2:DescribeNetworkInterfaces",
          "ec2:DescribeRouteTables",
          "ec2:DescribeSecurityGroups",
          "ec2:DescribeSubnets",
          "ec2:DescribeTags",
          "ec2:DescribeVpcPeeringConnections",
          "ec2:DescribeVpcs",
          "ec2:GetCoipPoolUsage",
          "ec2:GetSecurityGroupsForVpc",
          "elasticloadbalancing:Describe*",
          "wafv2:GetWebACL",
          "wafv2:GetWebACLForResource",
        ]
        Resource = ["*"]
      },
      {
        Sid      = "MakeGroupsInThisNetwork"
        Effect   = "Allow"
        Action   = ["ec2:CreateSecurityGroup"]
        Resource = [aws_vpc.this.arn]
      },
      {
        Sid       = "MakeGroupsWithTheTag"
        Effect    = "Allow"
        Action    = ["ec2:CreateSecurityGroup"]
        Resource  = ["arn:${local.partition}:ec2:${var.region}:${local.account}:security-group/*"]
        Condition = { StringEquals = { "aws:RequestTag/elbv2.k8s.aws/cluster" = local.name } }
      },
      {
        Sid      = "TagGroupsAsTheyAreMade"
        Effect   = "Allow"
        Action   = ["ec2:CreateTags"]
        Resource = ["arn:${local.partition}:ec2:${var.region}:${local.account}:security-group/*"]
        Condition = {
          StringEquals = { "ec2:CreateAction" = "CreateSecurityGroup", "aws:RequestTag/elbv2.k8s.aws/cluster" = local.name }
        }
      },
      {
        # The cluster's own group, which lets load balancers reach the nodes, has not the controller's tag.
        Sid       = "OpenAndCloseGroupsOfThisNetwork"
        Effect    = "Allow"
        Action    = ["ec2:AuthorizeSecurityGroupIngress", "ec2:RevokeSecurityGroupIngress"]
        Resource  = ["arn:${local.partition}:ec2:${var.region}:${local.account}:security-group/*"]
        Condition = { ArnEquals = { "ec2:Vpc" = aws_vpc.this.arn } }
      },
      {
        Sid       = "ChangeOwnGroups"
        Effect    = "Allow"
        Action    = ["ec2:CreateTags", "ec2:DeleteTags", "ec2:DeleteSecurityGroup"]
        Resource  = ["arn:${local.partition}:ec2:${var.region}:${local.account}:security-group/*"]
        Condition = { StringEquals = { "aws:ResourceTag/elbv2.k8s.aws/cluster" = local.name } }
      },
      {
        Sid    = "MakeBalancersWithTheTag"
        Effect = "Allow"
        Action = [
          "elasticloadbalancing:AddTags",
          "elasticloadbalancing:CreateListener",
          "elasticloadbalancing:CreateLoadBalancer",
          "elasticloadbalancing:CreateRule",
          "elasticloadbalancing:CreateTargetGroup",
        ]
        Resource  = ["*"]
        Condition = { StringEquals = { "aws:RequestTag/elbv2.k8s.aws/cluster" = local.name } }
      },
      {
        Sid    = "ChangeOwnBalancers"
        Effect = "Allow"
        Action = [
          "elasticloadbalancing:AddListenerCertificates",
          "elasticloadbalancing:AddTags",
          "elasticloadbalancing:CreateListener",
          "elasticloadbalancing:CreateRule",
          "elasticloadbalancing:DeleteListener",
          "elasticloadbalancing:DeleteLoadBalancer",
          "elasticloadbalancing:DeleteRule",
          "elasticloadbalancing:DeleteTargetGroup",
          "elasticloadbalancing:DeregisterTargets",
          "elasticloadbalancing:ModifyCapacityReservation",
          "elasticloadbalancing:ModifyIpPools",
          "elasticloadbalancing:ModifyListener",
          "elasticloadbalancing:ModifyListenerAttributes",
          "elasticloadbalancing:ModifyLoadBalancerAttributes",
          "elasticloadbalancing:ModifyRule",
          "elasticloadbalancing:ModifyTargetGroup",
          "elasticloadbalancing:ModifyTargetGroupAttributes",
          "elasticloadbalancing:RegisterTargets",
          "elasticloadbalancing:RemoveListenerCertificates",
          "elasticloadbalancing:RemoveTags",
          "elasticloadbalancing:SetIpAddressType",
          "elasticloadbalancing:SetRulePriorities",
          "elasticloadbalancing:SetSecurityGroups",
          "elasticloadbalancing:SetSubnets",
          "elasticloadbalancing:SetWebAcl",
        ]
        Resource  = ["*"]
        Condition = { StringEquals = { "aws:ResourceTag/elbv2.k8s.aws/cluster" = local.name } }
      },
    ]
  })
}

resource "aws_eks_pod_identity_association" "load_balancer_controller" {
  cluster_name    = aws_eks_cluster.this.name
  namespace       = local.pods.load_balancer_controller.namespace
  service_account = local.pods.load_balancer_controller.service_account
  role_arn        = aws_iam_role.load_balancer_controller.arn
}

resource "aws_iam_role" "ebs_csi" {
  name                 = "${local.name}-ebs-csi"
  permissions_boundary = local.permissions_boundary
  assume_role_policy   = local.pod_trust.ebs_csi
}

resource "aws_iam_role_policy_attachment" "ebs_csi" {
  role       = aws_iam_role.ebs_csi.name
  policy_arn = "arn:${local.partition}:iam::aws:policy/service-role/AmazonEBSCSIDriverPolicy"
}
