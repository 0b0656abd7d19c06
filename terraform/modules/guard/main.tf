# Keeps a state to its environment, and what is in it from being destroyed by mistake.
#
# A state remembers the environment that it was made for. Applied with the variables of another one it is refused while
# planning, so dev can never replace prod, whichever backend a directory was last initialised with.
#
# `terraform destroy` takes away first what was made last. This module is made last, so that it is asked before anything
# else goes: a provider's own deletion protection would only speak up when the nodes are gone already.

terraform {
  required_version = ">= 1.8"
}

variable "environment" {
  description = "Environment that the variables are for."
  type        = string
}

variable "deletion_protection" {
  description = "Whether `terraform destroy` is refused."
  type        = bool
}

variable "protects" {
  description = "Attributes of everything that must outlast this module: what they belong to is destroyed after it."
  type        = any
}

resource "terraform_data" "environment" {
  input = var.environment

  lifecycle {
    # What is in the state stays; only an empty state takes the variable's value.
    ignore_changes = [input]

    postcondition {
      condition     = self.input == var.environment
      error_message = "this state is the one of ${self.input}, and the variables are those of ${var.environment}; run terraform init -reconfigure with the backend of ${var.environment}, or give the variables of ${self.input}"
    }
  }
}

resource "terraform_data" "deletion_protection" {
  input = {
    environment = terraform_data.environment.output
    protected   = var.deletion_protection
    protects    = var.protects
  }

  provisioner "local-exec" {
    when    = destroy
    command = self.input.protected ? "echo ${self.input.environment} is protected: apply it with deletion_protection = false first && exit 1" : "exit 0"
  }
}
