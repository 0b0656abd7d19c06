//! DVC pointers: where a repository says, by an MD5, that a file lies.
//!
//! Locators only. What makes bytes the right ones is the sha256 and the size on the card, and a place that a pointer
//! leads to must be allowed like any other. Knows the layout of DVC 3 and of DVC 2.

use mainstay_models::Uri;
use serde::Deserialize;

/// A pointer beside a card, such as `model.onnx.dvc`.
#[derive(Debug, Deserialize)]
struct Pointer {
    outs: Vec<Output>,
}

#[derive(Debug, Deserialize)]
struct Output {
    path: String,
    md5: String,
    #[serde(default)]
    hash: Option<String>,
}

/// Where `file` lies, by its pointer and the repository's `.dvc/config`; what is wrong with them otherwise.
pub fn locate(file: &str, pointer: &[u8], config: &[u8]) -> Result<Uri, String> {
    let pointer: Pointer = serde_saphyr::from_slice(pointer).map_err(|_| format!("{file}.dvc is no DVC pointer"))?;
    let output = pointer.outs.into_iter().find(|output| output.path == file);
    let output = output.ok_or_else(|| format!("{file}.dvc does not say where {file} is"))?;
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if output.md5.len() != 32 || !output.md5.bytes().all(hex) {
        return Err(format!("{file}.dvc has no md5 of one file"));
    }
    let (first, rest) = output.md5.split_at(2);
    // DVC 3 says which hash it used, and keeps such files in a folder of their own.
    let key = match output.hash.as_deref() {
        Some("md5") => format!("files/md5/{first}/{rest}"),
        None => format!("{first}/{rest}"),
        Some(_) => return Err(format!("{file}.dvc has a hash other than md5")),
    };
    let remote = default_remote(config)?;
    // DVC's name for Azure; the rest are ours too.
    let remote = remote.strip_prefix("azure://").map_or(remote.clone(), |rest| format!("az://{rest}"));
    let uri = format!("{}/{key}", remote.trim_end_matches('/'));
    uri.parse().map_err(|e| format!("the DVC remote {remote}: {e}"))
}

/// The address of the remote that `[core] remote` names.
fn default_remote(config: &[u8]) -> Result<String, String> {
    let text = std::str::from_utf8(config).map_err(|_| ".dvc/config is not UTF-8".to_owned())?;
    let (mut name, mut addresses, mut section) = (None, Vec::new(), "");
    for line in text.lines().map(str::trim) {
        if let Some(inner) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = inner.trim_matches('\'');
        } else if let Some((key, value)) = line.split_once('=') {
            let (key, value) = (key.trim(), value.trim());
            let remote = section.strip_prefix("remote ").map(|quoted| quoted.trim_matches('"'));
            match (section, remote, key) {
                ("core", _, "remote") => name = Some(value),
                (_, Some(remote), "url") => addresses.push((remote, value)),
                _ => {}
            }
        }
    }
    let name = name.ok_or(".dvc/config names no default remote: `dvc remote default NAME`")?;
    let address = addresses.into_iter().find(|(remote, _)| *remote == name).map(|(_, address)| address.to_owned());
    address.ok_or_else(|| format!(".dvc/config has no address for the remote `{name}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &[u8] =
        b"[core]\n    remote = store\n['remote \"other\"']\n    url = s3://other\n['remote \"store\"']\n    url = s3://models/dvc\n";

    fn pointer(hash: &str) -> Vec<u8> {
        format!("outs:\n- md5: 0123456789abcdef0123456789abcdef\n  size: 13\n{hash}  path: model.onnx\n").into_bytes()
    }

    #[test]
    fn a_pointer_leads_to_the_default_remote_in_the_layout_of_its_dvc() {
        let at = |hash: &str| locate("model.onnx", &pointer(hash), CONFIG).unwrap().to_string();
        assert_eq!(at("  hash: md5\n"), "s3://models/dvc/files/md5/01/23456789abcdef0123456789abcdef");
        assert_eq!(at(""), "s3://models/dvc/01/23456789abcdef0123456789abcdef");
        let azure = b"[core]\nremote = a\n['remote \"a\"']\nurl = azure://models/\n";
        let uri = locate("model.onnx", &pointer("  hash: md5\n"), azure).unwrap();
        assert_eq!(uri.to_string(), "az://models/files/md5/01/23456789abcdef0123456789abcdef");
    }

    #[test]
    fn what_leads_nowhere_is_said() {
        let say = |pointer: &[u8], config: &[u8]| locate("model.onnx", pointer, config).unwrap_err();
        assert_eq!(say(b"nonsense", CONFIG), "model.onnx.dvc is no DVC pointer");
        assert_eq!(say(b"outs: []", CONFIG), "model.onnx.dvc does not say where model.onnx is");
        let folder = pointer("").iter().map(|b| if *b == b'f' { b'.' } else { *b }).collect::<Vec<_>>();
        assert_eq!(say(&folder, CONFIG), "model.onnx.dvc has no md5 of one file");
        assert!(say(&pointer(""), b"").contains("names no default remote"));
        assert!(say(&pointer(""), b"[core]\nremote = x\n").contains("has no address for the remote `x`"));
        let local = b"[core]\nremote = a\n['remote \"a\"']\nurl = /srv/dvc\n";
        assert!(say(&pointer(""), local).contains("is no place that can be read"));
    }
}
