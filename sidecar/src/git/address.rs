//! Where a repository is, and which of its commits is followed.
//!
//! Parsing is validating: an [`Address`] carries no password and asks for no transport that could leak one.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

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

/// What is followed: a branch, a tag, a full reference, or one commit for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference(String);

/// A text that is not a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a reference: write a branch or a tag such as main, a full one such as refs/heads/main, or 40 hexadecimal digits"
)]
pub struct ReferenceError;

impl Reference {
    /// The reference as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The commit, where one was given.
    pub fn commit(&self) -> Option<&str> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (self.0.len() == 40 && self.0.bytes().all(hex)).then_some(&self.0)
    }

    /// The full names that it may mean, the preferred one first.
    pub fn candidates(&self) -> Vec<String> {
        if self.0 == "HEAD" || self.0.starts_with("refs/") {
            return vec![self.0.clone()];
        }
        vec![format!("refs/heads/{}", self.0), format!("refs/tags/{}", self.0)]
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let part = |part: &str| !part.is_empty() && !part.starts_with(['.', '-']) && !part.ends_with(".lock");
        let odd = |c: char| c.is_control() || c.is_whitespace() || "~^:?*[\\".contains(c);
        let good = text.len() <= TEXT_BYTES_MAX
            && text.split('/').all(part)
            && !text.contains(odd)
            && !text.contains("..")
            && !text.contains("@{")
            && !text.ends_with('.');
        if good { Ok(Self(text.to_owned())) } else { Err(ReferenceError) }
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
        reference.0
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
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
        for bad in ["", "a b", "a..b", "/a", "a/", "-a", "a~1", "a:b", "*", "a.lock", "a@{1}", ".a", "a."] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
        let commit: Reference = "0123456789abcdef0123456789abcdef01234567".parse().unwrap();
        assert!(commit.commit().is_some());
    }
}
