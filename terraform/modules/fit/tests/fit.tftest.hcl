variables {
  node      = { cpu_millicores = 3920, memory_mib = 14000, pods = 58 }
  daemons   = { cpu_millicores = 200, memory_mib = 300, pods = 5 }
  workload  = { cpu_millicores = 600, memory_mib = 768, replicas_min = 3, replicas_max = 20 }
  nodes_min = 3
  nodes_max = 4
  zones     = 3
}

run "the_scarcest_of_the_three_decides" {
  command = plan

  assert {
    condition     = output.pods_per_node == 6
    error_message = "3720 millicores hold 6 pods of 600, not ${output.pods_per_node}"
  }

  assert {
    condition     = output.pods_max == 24
    error_message = "4 nodes hold 24 pods, not ${output.pods_max}"
  }

  assert {
    condition     = output.pods_without_a_zone == 12
    error_message = "2 of 3 nodes hold 12 pods, not ${output.pods_without_a_zone}"
  }
}

run "few_addresses_decide_where_there_are_few" {
  command = plan

  variables {
    node     = { cpu_millicores = 3920, memory_mib = 14000, pods = 8 }
    workload = { cpu_millicores = 600, memory_mib = 768, replicas_min = 3, replicas_max = 11 }
  }

  assert {
    condition     = output.pods_per_node == 3
    error_message = "8 pods less 5 daemons leave 3, not ${output.pods_per_node}"
  }
}

run "a_node_that_holds_no_pod_is_refused" {
  command = plan

  variables {
    node = { cpu_millicores = 700, memory_mib = 14000, pods = 58 }
  }

  expect_failures = [output.pods_per_node, output.pods_max, output.pods_without_a_zone]
}

run "a_pool_that_cannot_hold_a_rollout_is_refused" {
  command = plan

  variables {
    # 24 fit; the rollout's extra pod does not.
    workload = { cpu_millicores = 600, memory_mib = 768, replicas_min = 3, replicas_max = 24 }
  }

  expect_failures = [output.pods_max]
}

run "a_pool_that_dies_with_one_zone_is_refused" {
  command = plan

  variables {
    nodes_min = 3
    workload  = { cpu_millicores = 3000, memory_mib = 768, replicas_min = 3, replicas_max = 3 }
  }

  expect_failures = [output.pods_without_a_zone]
}

run "one_zone_promises_nothing_about_its_loss" {
  command = plan

  variables {
    nodes_min = 1
    zones     = 1
  }

  assert {
    condition     = output.pods_without_a_zone == 6
    error_message = "one node in the one zone holds 6 pods, not ${output.pods_without_a_zone}"
  }
}
