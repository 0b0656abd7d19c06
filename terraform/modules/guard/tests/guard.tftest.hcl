# With real applies: the module needs no provider. That a protected environment is not destroyed is shown by
# .ci/terraform, since a test cannot expect its own end to fail.

variables {
  environment         = "dev"
  deletion_protection = false
  protects            = ["a cluster"]
}

run "an_empty_state_takes_any_environment" {
  command = apply
}

run "a_state_takes_its_own_environment_again" {
  command = plan
}

run "a_state_refuses_another_environment" {
  command = plan

  variables {
    environment = "prod"
  }

  expect_failures = [terraform_data.environment]
}

run "a_refused_plan_has_not_changed_whose_state_it_is" {
  command = plan

  assert {
    condition     = terraform_data.environment.input == "dev"
    error_message = "the state has forgotten its environment"
  }
}
