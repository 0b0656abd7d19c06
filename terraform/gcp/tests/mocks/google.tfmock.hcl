mock_data "google_project" {
  defaults = {
    project_id = "example"
    number     = "123456789012"
  }
}
