# Two keys, so that whoever may read models may not read the cluster's secrets. A key ring cannot be deleted, ever: the
# random end of its name lets a destroyed environment be made again.

resource "random_id" "keys" {
  byte_length = 3
}

resource "google_kms_key_ring" "this" {
  name     = "${local.name}-${random_id.keys.hex}"
  location = var.region
}

resource "google_kms_crypto_key" "this" {
  #checkov:skip=CKV_GCP_82:a key is made anew with its ring; what it encrypted goes with the environment
  for_each = toset(["cluster", "models"])

  name                       = each.key
  key_ring                   = google_kms_key_ring.this.id
  rotation_period            = "7776000s"
  destroy_scheduled_duration = var.deletion_protection ? "2592000s" : "86400s"
}

resource "google_kms_crypto_key_iam_member" "cluster" {
  crypto_key_id = google_kms_crypto_key.this["cluster"].id
  role          = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
  member        = "serviceAccount:service-${local.number}@container-engine-robot.iam.gserviceaccount.com"
}

data "google_storage_project_service_account" "this" {}

resource "google_kms_crypto_key_iam_member" "models" {
  crypto_key_id = google_kms_crypto_key.this["models"].id
  role          = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
  member        = "serviceAccount:${data.google_storage_project_service_account.this.email_address}"
}
