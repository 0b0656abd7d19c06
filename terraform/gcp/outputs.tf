output "kubeconfig_command" {
  description = "Type this, and kubectl speaks to the cluster."
  value       = "gcloud container clusters get-credentials ${google_container_cluster.this.name} --location ${google_container_cluster.this.location} --project ${local.project}${length(var.api_access_cidrs) == 0 ? " --internal-ip" : ""}"
}

output "cluster_name" {
  description = "Name of the cluster."
  value       = google_container_cluster.this.name
}

output "artifacts_bucket" {
  description = "Bucket of the models."
  value       = google_storage_bucket.models.name
}

output "artifacts_uri" {
  description = "ARTIFACTS in k8s/overlays/gke/<environment>/cluster/sync.env."
  value       = "gs://${google_storage_bucket.models.name}/"
}

output "image_repository" {
  description = "Image's newName in k8s/overlays/gke/<environment>."
  value       = "${var.region}-docker.pkg.dev/${local.project}/${google_artifact_registry_repository.this.repository_id}/mainstay"
}

output "pod_principal" {
  description = "Who Mainstay's pods are. Nothing of it stands in a manifest."
  value       = google_storage_bucket_iam_member.mainstay.member
}

output "publisher_principal" {
  description = "Who pushes images and models: a workflow's job; null without github_repository."
  value       = local.publisher
}

output "proxy_subnet_cidr" {
  description = "LOAD_BALANCER_CIDR in k8s/overlays/gke/<environment>/cluster/cluster.env."
  value       = google_compute_subnetwork.proxies.ip_cidr_range
}

output "egress_addresses" {
  description = "Addresses that nodes and pods have outside, for allow lists of git hosts."
  value       = [google_compute_address.nat.address]
}

output "pods_per_node" {
  description = "Mainstay pods that fit a workload node."
  value       = module.fit.pods_per_node
}

output "pods_max" {
  description = "Mainstay pods that fit the workload pool at its largest."
  value       = module.fit.pods_max
}
