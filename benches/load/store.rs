//! Stores with the forest in them, made as the sidecar makes one, without git.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use mainstay_models::{Blob, Commit, ModelSpec, Publisher, Release, ReleasedModel, ReleasedVersion, Version};

pub const CARD: &str = include_str!("forest/model.yaml");
pub const FILE: &[u8] = include_bytes!("forest/model.onnx");

/// A store and what it was last asked to serve.
pub struct Store {
    publisher: Publisher,
    releases: u64,
    /// What the last release has: a sidecar does not bring it again either.
    there: BTreeMap<(String, Version), ReleasedVersion>,
}

impl Store {
    pub fn new(root: &Path) -> Self {
        Self { publisher: Publisher::open(root).unwrap(), releases: 0, there: BTreeMap::new() }
    }

    /// Publishes versions of models, the stable one of each in front. Gives the commit that asks for it, and from when on a
    /// server may see it.
    pub fn publish(&mut self, models: &[(String, Vec<Version>)]) -> (String, Instant) {
        // As the sidecar does, so that a long run does not fill the disk.
        self.publisher.collect(5).unwrap();
        self.releases += 1;
        let (mut released, mut there) = (BTreeMap::new(), BTreeMap::new());
        for (name, versions) in models {
            let bytes: BTreeMap<_, _> =
                versions.iter().map(|version| (version.clone(), self.add(name, version))).collect();
            there.extend(bytes.iter().map(|(version, bytes)| ((name.clone(), version.clone()), *bytes)));
            let model = ReleasedModel { stable: versions[0].clone(), versions: bytes, fallback: None };
            released.insert(name.parse().unwrap(), model);
        }
        let id = format!("{:040x}", self.releases);
        let commit = Commit {
            id: id.parse().unwrap(),
            author: "load".to_owned(),
            subject: "Serve the forest".to_owned(),
            time_unix_s: 0,
        };
        let default = models[0].0.parse().unwrap();
        let release = Release::new("prod".parse().unwrap(), commit, default, released, Vec::new()).unwrap();
        self.there = there;
        let begun = Instant::now();
        self.publisher.publish(&release).unwrap();
        (id, begun)
    }

    /// The forest under another name and version. Its card says so, hence it is another one to the server in everything.
    fn add(&self, name: &str, version: &Version) -> ReleasedVersion {
        if let Some(bytes) = self.there.get(&(name.to_owned(), version.clone())) {
            return *bytes;
        }
        let card = CARD.replacen("name: forest", &format!("name: {name}"), 1);
        let card = card.replacen("version: 1.0.0", &format!("version: {version}"), 1);
        let spec = ModelSpec::parse("model.yaml", card.as_bytes()).unwrap();
        assert_eq!((spec.name.as_str(), &spec.version), (name, version));
        let bytes = ReleasedVersion { spec: Blob::of(card.as_bytes()), artifact: spec.artifact.blob };
        self.publisher.add(&bytes.spec, card.as_bytes()).unwrap();
        self.publisher.add(&bytes.artifact, FILE).unwrap();
        bytes
    }
}

/// The forest, in the version 1.0.`patch`.
pub fn forest(patch: u64) -> (String, Vec<Version>) {
    ("forest".to_owned(), vec![version(patch)])
}

pub fn version(patch: u64) -> Version {
    format!("1.0.{patch}").parse().unwrap()
}
