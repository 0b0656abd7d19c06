//! Where a repository is, and which of its commits is followed.
//!
//! Parsing is validating: an [`Address`] carries no password and asks for no transport that could leak one.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use semver::VersionReq;
use serde::{Deserialize, Serialize};

/// The longest address and the longest reference, in bytes.
const TEXT_BYTES_MAX: usize = 1024;

/// The address of a repository: https, ssh, file, or a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    text: String,
    transport: Transport,
}

/// How a repository is reached, which decides the credentials that it can be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A folder on this machine.
    File,
    /// HTTPS, or HTTP to this machine itself.
    Http,
    /// SSH.
    Ssh,
}

/// An address that is not used. It never repeats the address, which may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// There is a user or a password in it that does not belong there.
    #[error("the repository's address holds credentials: take them out, and give --token-file or --ssh-key-file")]
    Credentials,
    /// HTTP without TLS, to another machine.
    #[error("the repository's address is http://, which anybody on the way can change: use https:// or ssh://")]
    Plain,
    /// Not an address.
    #[error("not a repository's address: write https://HOST/PATH, ssh://USER@HOST/PATH, USER@HOST:PATH, or a folder")]
    Shape,
}

impl Address {
    /// The address as it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// How the repository is reached.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// The folder, where the repository is one on this machine.
    pub fn folder(&self) -> Option<&Path> {
        let is_folder = self.transport == Transport::File;
        is_folder.then(|| Path::new(self.text.strip_prefix("file://").unwrap_or(&self.text)))
    }

    fn transport_of(text: &str) -> Result<Transport, AddressError> {
        if text.is_empty() || text.len() > TEXT_BYTES_MAX || text.starts_with('-') || text.contains(char::is_control) {
            return Err(AddressError::Shape);
        }
        let transport = Self::transport_named_by(text)?;
        // People name their folders as they like; what goes to another machine keeps to what needs no quoting.
        let odd = |c: char| c.is_whitespace() || "\"'`\\<>".contains(c);
        if transport != Transport::File && text.contains(odd) { Err(AddressError::Shape) } else { Ok(transport) }
    }

    fn transport_named_by(text: &str) -> Result<Transport, AddressError> {
        let Some((scheme, rest)) = text.split_once("://") else {
            // As git does: a colon before the first slash makes it USER@HOST:PATH.
            return match text.split_once(':') {
                Some((user, rest)) if !user.contains(['/', '@']) && rest.contains('@') => {
                    Err(AddressError::Credentials)
                }
                Some((host, path)) if !host.contains('/') => Self::check_ssh(host, path),
                _ => Ok(Transport::File),
            };
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        match scheme {
            "file" if authority.is_empty() && Path::new(&rest).is_absolute() => Ok(Transport::File),
            "https" | "http" if authority.contains('@') => Err(AddressError::Credentials),
            "https" if !host.is_empty() => Ok(Transport::Http),
            "http" if is_loopback(host) => Ok(Transport::Http),
            "http" => Err(AddressError::Plain),
            "ssh" => Self::check_ssh(authority, path),
            _ => Err(AddressError::Shape),
        }
    }

    fn check_ssh(authority: &str, path: &str) -> Result<Transport, AddressError> {
        let (user, host) = authority.rsplit_once('@').unwrap_or(("git", authority));
        if user.contains(':') {
            return Err(AddressError::Credentials);
        }
        // A host or a path that starts with a dash would be an option to the program at the other end.
        let good = |part: &str| !part.is_empty() && !part.starts_with('-');
        if good(user) && good(host) && good(path) { Ok(Transport::Ssh) } else { Err(AddressError::Shape) }
    }
}

fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Ok(Self { text: text.to_owned(), transport: Self::transport_of(text)? })
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> String {
        address.text
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What is followed: a branch, a tag, a full reference, one commit for good, or the highest tag in a range of versions.
///
/// A text is a range if it begins with `^`, `~`, `=`, `<` or `>`, or holds a `*`; anything else is a name. Most of these
/// characters cannot stand in a name; a branch whose name begins with one of the others is followed by its full name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    text: String,
    range: Option<VersionReq>,
}

/// A text that is not a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Neither a name nor a commit.
    #[error(
        "not a reference: write a branch or a tag such as main, a full one such as refs/heads/main, 40 hexadecimal digits, \
         or a range of tags such as '^1'"
    )]
    Name,
    /// It looks like a range, and is none.
    #[error("not a range of tags ({problem}): write '^1', '~1.2', '>=1.0, <2' or '1.*'")]
    Range {
        /// What is wrong with it.
        problem: String,
    },
}

impl Reference {
    /// The reference as it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The commit, where one was given.
    pub fn commit(&self) -> Option<&str> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (self.text.len() == 40 && self.text.bytes().all(hex)).then_some(&self.text)
    }

    /// The versions among whose tags the highest is followed, where a range was given.
    pub fn range(&self) -> Option<&VersionReq> {
        self.range.as_ref()
    }

    /// The full names that it may mean, the preferred one first; none for a range.
    pub fn candidates(&self) -> Vec<String> {
        if self.range.is_some() {
            return Vec::new();
        }
        if self.text == "HEAD" || self.text.starts_with("refs/") {
            return vec![self.text.clone()];
        }
        vec![format!("refs/heads/{}", self.text), format!("refs/tags/{}", self.text)]
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(ReferenceError::Name);
        }
        if text.starts_with(['^', '~', '=', '<', '>']) || text.contains('*') {
            let range = VersionReq::parse(text).map_err(|e| ReferenceError::Range { problem: e.to_string() })?;
            return Ok(Self { text: text.to_owned(), range: Some(range) });
        }
        let part = |part: &str| !part.is_empty() && !part.starts_with(['.', '-']) && !part.ends_with(".lock");
        let odd = |c: char| c.is_control() || c.is_whitespace() || "~^:?*[\\".contains(c);
        let good = text.split('/').all(part)
            && !text.contains(odd)
            && !text.contains("..")
            && !text.contains("@{")
            && !text.ends_with('.');
        if good { Ok(Self { text: text.to_owned(), range: None }) } else { Err(ReferenceError::Name) }
    }
}

impl TryFrom<String> for Reference {
    type Error = ReferenceError;

    fn try_from(text: String) -> Result<Self, ReferenceError> {
        text.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> String {
        reference.text
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_how_it_is_reached() {
        for (text, transport) in [
            ("https://git.example/team/config.git", Transport::Http),
            ("http://127.0.0.1:8080/config", Transport::Http),
            ("http://[::1]:8080/config", Transport::Http),
            ("http://localhost/config", Transport::Http),
            ("ssh://git@git.example:2222/team/config.git", Transport::Ssh),
            ("git@git.example:team/config.git", Transport::Ssh),
            ("file:///srv/config.git", Transport::File),
            ("/srv/config.git", Transport::File),
            ("../config", Transport::File),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().transport(), transport, "{text}");
        }
    }

    #[test]
    fn an_address_with_a_password_is_refused_and_not_repeated() {
        for text in [
            "https://me:hunter2@git.example/config",
            "https://hunter2@git.example/config",
            "http://me:hunter2@127.0.0.1/config",
            "ssh://me:hunter2@git.example/config",
            "me:hunter2@git.example:config",
        ] {
            let error = text.parse::<Address>().map(|_| ()).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "-x",
            "--upload-pack=x",
            "git@-oProxyCommand=x:y",
            "ssh://git@host/-x",
            "https://",
            "https://host/a b",
            "git@host:a b",
            "/a\nb",
            "ftp://host/x",
            "file://host/x",
            "https://host/\n",
            "ext::sh -c x",
            "http://git.example/config",
            "host:",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
        // A folder may be called what people like.
        assert_eq!("/home/Ada's models".parse::<Address>().map(|a| a.transport()), Ok(Transport::File));
    }

    #[test]
    fn a_short_reference_means_a_branch_and_then_a_tag() {
        let candidates = |text: &str| text.parse::<Reference>().unwrap().candidates();
        assert_eq!(candidates("main"), ["refs/heads/main", "refs/tags/main"]);
        assert_eq!(candidates("refs/tags/v1"), ["refs/tags/v1"]);
        assert_eq!(candidates("HEAD"), ["HEAD"]);
        for bad in ["", "a b", "a..b", "/a", "a/", "-a", "a~1", "a:b", "a?", "a.lock", "a@{1}", ".a", "a."] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
        let commit: Reference = "0123456789abcdef0123456789abcdef01234567".parse().unwrap();
        assert!(commit.commit().is_some());
    }
    #[test]
    fn a_range_and_a_name_cannot_be_mistaken_for_each_other() {
        for range in ["^1", "~1.2", ">=1.0, <2", ">=1.0,<2", "1.*", "*", "=1.2.3", "^1.0.0-rc.1", "<2"] {
            let reference: Reference = range.parse().unwrap();
            assert!(reference.range().is_some() && reference.candidates().is_empty(), "{range}");
            assert_eq!(reference.to_string(), range);
        }
        // What could also be read as a version or a wildcard is a name: git allows it as one.
        for name in ["1", "1.2", "v1.2.3", "1.x", "refs/heads/>=1", "refs/heads/=x", "release/1.2"] {
            assert!(name.parse::<Reference>().unwrap().range().is_none(), "{name}");
        }
        for bad in ["^", "^main", ">=1.0 <2", "1.*.2", "v*", "^v1", "*/x", ">"] {
            let error = bad.parse::<Reference>().unwrap_err().to_string();
            assert!(error.starts_with("not a range of tags ("), "{bad}: {error}");
        }
    }
}
