output "kubeconfig_command" {
  description = "Type this, and kubectl speaks to the cluster."
  value       = "aws eks update-kubeconfig --region ${var.region} --name ${aws_eks_cluster.this.name}"
}

output "cluster_name" {
  description = "Name of the cluster."
  value       = aws_eks_cluster.this.name
}

output "artifacts_bucket" {
  description = "Bucket of the models."
  value       = aws_s3_bucket.artifacts.bucket
}

output "artifacts_uri" {
  description = "ARTIFACTS in k8s/overlays/eks/<environment>/cluster/sync.env."
  value       = "s3://${aws_s3_bucket.artifacts.bucket}/"
}

output "image_repository" {
  description = "Image's newName in k8s/overlays/eks/<environment>."
  value       = aws_ecr_repository.this.repository_url
}

output "pod_role_arn" {
  description = "Who Mainstay's pods are. Pod Identity ties it to the service account; nothing of it stands in a manifest."
  value       = aws_iam_role.mainstay.arn
}

output "pod_identity_subject" {
  description = "The one service account that is let in."
  value       = "system:serviceaccount:${aws_eks_pod_identity_association.mainstay.namespace}:${aws_eks_pod_identity_association.mainstay.service_account}"
}

output "publisher_role_arn" {
  description = "Role of the workflow that pushes images and models; null without github_repository."
  value       = one(aws_iam_role.publisher[*].arn)
}

output "vpc_id" {
  description = "The network, as the load balancer controller wants to know it."
  value       = aws_vpc.this.id
}

output "vpc_cidr" {
  description = "LOAD_BALANCER_CIDR in k8s/overlays/eks/<environment>/cluster/cluster.env."
  value       = aws_vpc.this.cidr_block
}

output "egress_addresses" {
  description = "Addresses that nodes and pods have outside, for allow lists of git hosts."
  value       = [for address in aws_eip.nat : address.public_ip]
}

output "pods_per_node" {
  description = "Mainstay pods that fit a workload node."
  value       = module.fit.pods_per_node
}

output "pods_max" {
  description = "Mainstay pods that fit the workload pool at its largest."
  value       = module.fit.pods_max
}
