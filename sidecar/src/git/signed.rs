//! Takes a commit object apart: what is signed, and the signature.
//!
//! By hand and not by libgit2, whose `extract_signature` looks for the header in the message too, drops the beginning of
//! lines that only begin like it, and ends at a zero byte: what it calls the signed data need not be the commit.

use mainstay_models::CommitId;

/// A commit object, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The signature, where there is one.
    pub signature: Option<String>,
    /// What is signed: everything but the signature.
    pub payload: Vec<u8>,
    /// The commit's parents.
    pub parents: Vec<CommitId>,
    /// When the committer says it was made, in seconds since 1970.
    pub time_unix_s: i64,
}

impl Signed {
    /// Takes a commit object apart; `None` where it is not as git writes them.
    pub fn parse(object: &[u8]) -> Option<Self> {
        let (mut signature, mut payload) = (None, Vec::with_capacity(object.len()));
        let (mut parents, mut time_unix_s) = (Vec::new(), None);
        // What may come next: tree, parents, author, committer, in this order and nothing in between.
        let mut next = ["tree ", "author ", "committer "].iter().peekable();
        let mut rest = object;
        let mut in_signature = false;
        loop {
            let end = rest.iter().position(|&byte| byte == b'\n')? + 1;
            let (line, after) = rest.split_at(end);
            if line == b"\n" {
                break;
            }
            rest = after;
            let text = &line[..end - 1];
            if let Some(more) = text.strip_prefix(b" ") {
                match (&mut signature, in_signature) {
                    (Some(signature), true) => push_line(signature, more),
                    _ => payload.extend_from_slice(line),
                }
                continue;
            }
            in_signature = false;
            match next.peek() {
                Some(&&expected) if text.starts_with(expected.as_bytes()) => {
                    next.next();
                    if expected == "committer " {
                        time_unix_s = Some(time_of(text)?);
                    }
                }
                Some(&&"author ") => {
                    let parent = text.strip_prefix(b"parent ")?;
                    parents.push(std::str::from_utf8(parent).ok()?.parse().ok()?);
                }
                Some(_) => return None,
                None => {
                    if let Some(first) = text.strip_prefix(b"gpgsig ") {
                        if signature.is_some() {
                            return None;
                        }
                        in_signature = true;
                        push_line(signature.insert(Vec::new()), first);
                        continue;
                    }
                }
            }
            payload.extend_from_slice(line);
        }
        payload.extend_from_slice(rest);
        let signature = signature.map(String::from_utf8).transpose().ok()?;
        Some(Self { signature, payload, parents, time_unix_s: time_unix_s? })
    }
}

fn push_line(signature: &mut Vec<u8>, line: &[u8]) {
    signature.extend_from_slice(line);
    signature.push(b'\n');
}

/// The seconds in `committer NAME <MAIL> SECONDS ZONE`.
fn time_of(line: &[u8]) -> Option<i64> {
    let after = line.rsplit(|&byte| byte == b'>').next()?;
    std::str::from_utf8(after).ok()?.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: &str = "tree 1111111111111111111111111111111111111111\n";
    const PARENT: &str = "parent 2222222222222222222222222222222222222222\n";
    const PEOPLE: &str = "author A <a@b> 1 +0000\ncommitter C > D <c@d> 1700000000 +0100\n";

    fn parse(text: &str) -> Option<Signed> {
        Signed::parse(text.as_bytes())
    }

    #[test]
    fn the_payload_is_everything_but_the_signature() {
        let message = "\nSubject\n\ngpgsig in the message\n stays\n\0and so does this";
        let object = format!("{TREE}{PARENT}{PEOPLE}gpgsig -----BEGIN\n \n more\n -----END\nencoding x\n y\n{message}");
        let signed = parse(&object).unwrap();
        assert_eq!(signed.signature.as_deref(), Some("-----BEGIN\n\nmore\n-----END\n"));
        assert_eq!(signed.payload, format!("{TREE}{PARENT}{PEOPLE}encoding x\n y\n{message}").into_bytes());
        assert_eq!(signed.parents, ["2".repeat(40).parse().unwrap()]);
        assert_eq!(signed.time_unix_s, 1_700_000_000);
        let unsigned = parse(&format!("{TREE}{PEOPLE}gpgsignature x\n\ngpgsig y\n")).unwrap();
        assert_eq!((unsigned.signature, unsigned.parents.len()), (None, 0));
        assert!(unsigned.payload.ends_with(b"gpgsignature x\n\ngpgsig y\n"));
    }

    #[test]
    fn what_git_would_not_write_is_refused() {
        for object in [
            String::new(),
            TREE.to_owned(),
            format!("{PARENT}{TREE}{PEOPLE}\n"),
            format!("{TREE}odd x\n{PEOPLE}\n"),
            format!("{TREE}gpgsig a\n{PARENT}{PEOPLE}\n"),
            format!("{TREE}{PEOPLE}gpgsig a\ngpgsig b\n\n"),
            format!("{TREE}parent 2\n{PEOPLE}\n"),
            format!("{TREE}author A <a@b> 1 +0000\ncommitter C\n\n"),
        ] {
            assert_eq!(parse(&object), None, "{object}");
        }
    }
}
