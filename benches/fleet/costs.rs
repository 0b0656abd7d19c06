//! What was measured: the figures of `cargo bench --bench gitops -- https --json`.

use std::path::Path;

use serde::Deserialize;

/// What looks and fetches cost, and what programs have to show.
pub struct Costs {
    pub look_bytes: f64,
    /// Of the git host's processor: TLS, web server and git.
    pub look_s: f64,
    /// Of a pass that fetches, its own look included.
    pub fetch_bytes: f64,
    /// Of the git host's processor, for the pack alone.
    pub pack_s: f64,
    sidecar_series: f64,
    server_series: f64,
    model_series: f64,
}

#[derive(Deserialize)]
struct Figure {
    what: String,
    value: f64,
}

impl Costs {
    pub fn read(path: &Path) -> Self {
        let text = std::fs::read(path).unwrap();
        let figures: Vec<Figure> = serde_json::from_slice(&text).unwrap();
        let get = |what: &str| {
            let figure = figures.iter().find(|figure| figure.what == what);
            figure.unwrap_or_else(|| panic!("{} has no `{what}`", path.display())).value
        };
        let web_s = get("git host's processor time of a look, TLS and web server") / 1e3;
        let model_series = get("of those, of iris alone");
        Self {
            look_bytes: get("bytes of a look, both ways"),
            look_s: web_s + get("git host's processor time of a look, git itself") / 1e3,
            fetch_bytes: get("bytes of a pass that fetches a roll"),
            pack_s: get("git host's processor time of a pack") / 1e3,
            sidecar_series: get("time series of a sidecar"),
            server_series: get("time series of a server with two models") - 2.0 * model_series,
            model_series,
        }
    }

    /// The time series of a pod that serves so many models.
    pub fn series(&self, models: f64) -> f64 {
        self.sidecar_series + self.server_series + models * self.model_series
    }
}
