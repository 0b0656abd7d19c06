# Reads a file of variables, so that tests try what operators apply rather than a copy of it.

terraform {
  required_version = ">= 1.8"

  required_providers {
    terraform = {
      source = "terraform.io/builtin/terraform"
    }
  }
}

variable "file" {
  description = "Path of the file, from the root module's folder."
  type        = string
}

output "values" {
  description = "The file's variables."
  value       = provider::terraform::decode_tfvars(file(var.file))
}
