//! The models that Mainstay ships, inside the binary, so that one file alone answers.

/// One version of a shipped model.
#[derive(Debug, Clone, Copy)]
pub struct Embedded {
    /// The model's name.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// The model.yaml.
    pub spec: &'static [u8],
    /// The model.onnx.
    pub artifact: &'static [u8],
}

macro_rules! embedded {
    ($name:literal, $version:literal) => {
        Embedded {
            name: $name,
            version: $version,
            spec: include_bytes!(concat!("../", $name, "/", $version, "/model.yaml")),
            artifact: include_bytes!(concat!("../", $name, "/", $version, "/model.onnx")),
        }
    };
}

/// All shipped versions; of one model the oldest first.
pub const MODELS: [Embedded; 4] = [
    embedded!("iris", "1.0.0"),
    embedded!("iris", "1.1.0"),
    embedded!("pred-main", "1.0.0"),
    embedded!("pred-main", "1.1.0"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Blob, ModelSpec};

    #[test]
    fn every_shipped_card_is_valid_and_names_the_bytes_beside_it() {
        for model in MODELS {
            let spec = ModelSpec::parse(&format!("{}/{}/model.yaml", model.name, model.version), model.spec).unwrap();
            assert_eq!((spec.name.as_str(), spec.version.to_string().as_str()), (model.name, model.version));
            assert_eq!(spec.artifact.blob, Blob::of(model.artifact));
            assert!(model.artifact.len() < 3 << 20);
            assert!(spec.golden.rows.len() >= 32);
        }
    }
}
