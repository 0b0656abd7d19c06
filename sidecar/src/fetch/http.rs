//! Web servers.
//!
//! Goes on in the middle only where the server says that it still has the same version. Follows a few redirects, by
//! https or to what the operator allowed, and takes a token to no other host. Does not reach link-local addresses, where
//! machines keep their identities, unless such an address is itself allowed.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use futures_util::StreamExt as _;
use mainstay_models::Uri;
use mainstay_models::uri::Scheme;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Response, StatusCode, Url};

use super::{Failed, Folder, Opened, REDIRECTS_MAX, Settings, build, client_builder};

/// The largest token, in bytes.
const TOKEN_BYTES_MAX: u64 = 64 << 10;

/// Asks for the bytes of `uri` from `offset` on, of the version that `validator` names, if it does. The answer may begin
/// at 0 all the same.
pub(super) async fn open(
    settings: &Settings,
    uri: &Uri,
    mut offset: u64,
    validator: Option<&str>,
) -> Result<Opened, Failed> {
    let client = build(client_builder().dns_resolver(Arc::new(NotLinkLocal)))?;
    let first = Url::parse(&uri.to_string()).map_err(|e| Failed::other(&e))?;
    let token = token(settings, uri)?;
    let mut url = first.clone();
    let mut redirects = 0;
    loop {
        let mut request = client.get(url.clone()).header(header::ACCEPT_ENCODING, "identity");
        if offset > 0 {
            request = request.header(header::RANGE, format!("bytes={offset}-"));
            if let Some(validator) = validator {
                request = request.header(header::IF_RANGE, validator);
            }
        }
        if let Some(token) = token.as_ref().filter(|_| url.origin() == first.origin()) {
            request = request.header(header::AUTHORIZATION, token);
        }
        let response = request.send().await.map_err(|e| Failed::other(&e.without_url()))?;
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => return opened(response, offset),
            // What lies there now is shorter: once more, for all of it.
            StatusCode::RANGE_NOT_SATISFIABLE if offset > 0 => offset = 0,
            StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT => {
                redirects += 1;
                if redirects > REDIRECTS_MAX {
                    return Err(Failed::Other(format!("redirects more than {REDIRECTS_MAX} times")));
                }
                url = follow(settings, &url, response.headers())?;
            }
            status => return Err(Failed::Other(format!("answers {status}"))),
        }
    }
}

/// The token for the host, where there is one. A secret is not shown to somebody who is not proven to be that host.
fn token(settings: &Settings, uri: &Uri) -> Result<Option<HeaderValue>, Failed> {
    let path = settings.token_files.get(uri.authority()).filter(|_| uri.scheme() == Scheme::Https);
    let Some(path) = path else { return Ok(None) };
    let fail = |problem: &str| Failed::Other(format!("cannot be asked: the file with its token {problem}"));
    let length = std::fs::metadata(path).map_err(|_| fail("cannot be read"))?.len();
    if length > TOKEN_BYTES_MAX {
        return Err(fail("is too large"));
    }
    let token = std::fs::read_to_string(path).map_err(|_| fail("cannot be read"))?;
    let value = HeaderValue::from_str(&format!("Bearer {}", token.trim()));
    let mut value = value.map_err(|_| fail("holds what is no token"))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// Where a redirect leads, if one may go there.
fn follow(settings: &Settings, from: &Url, headers: &HeaderMap) -> Result<Url, Failed> {
    let to = text(headers, &header::LOCATION).and_then(|location| from.join(location).ok());
    let to = to.ok_or_else(|| Failed::Other("redirects to nowhere".to_owned()))?;
    let is_allowed = || {
        let mut plain = to.clone();
        plain.set_query(None);
        plain.set_fragment(None);
        let uri = plain.as_str().parse::<Uri>();
        uri.is_ok_and(|uri| settings.allowed.iter().any(|Folder(folder)| uri.lies_in(folder)))
    };
    let (host, scheme) = (to.host_str().unwrap_or_default(), to.scheme());
    let may = match scheme {
        "https" => !is_link_local(host) || is_allowed(),
        "http" => from.scheme() == "http" && is_allowed(),
        _ => false,
    };
    if may {
        Ok(to)
    } else {
        Err(Failed::Other(format!("redirects to {scheme}://{host}, where it may not be followed")))
    }
}

fn opened(response: Response, asked: u64) -> Result<Opened, Failed> {
    let headers = response.headers();
    if text(headers, &header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(Failed::Other("sends it compressed, although it was asked not to".to_owned()));
    }
    let (offset, total_bytes) = if response.status() == StatusCode::PARTIAL_CONTENT {
        let range = text(headers, &header::CONTENT_RANGE).and_then(content_range);
        let (offset, total) = range.ok_or_else(|| Failed::Other("sends a part and does not say which".to_owned()))?;
        if offset != asked {
            return Err(Failed::Other(format!("sends from byte {offset} on instead of {asked}")));
        }
        (offset, total)
    } else {
        (0, text(headers, &header::CONTENT_LENGTH).and_then(|length| length.parse().ok()))
    };
    // A weak tag is no promise about bytes.
    let tag = text(headers, &header::ETAG).filter(|tag| !tag.starts_with("W/"));
    let validator = tag.or_else(|| text(headers, &header::LAST_MODIFIED)).map(str::to_owned);
    let bytes = response.bytes_stream().map(|piece| piece.map_err(|e| Failed::other(&e.without_url()))).boxed();
    Ok(Opened { offset, total_bytes, validator, bytes })
}

/// Where a part begins, and how many bytes there are in all: `bytes 10-19/20`, with `*` for what is not known.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (begin, _) = range.split_once('-')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    Some((begin.parse().ok()?, total))
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Finds the addresses of a name, and leaves out those that only this machine's own network segment knows.
#[derive(Debug)]
struct NotLinkLocal;

impl Resolve for NotLinkLocal {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let addresses: Vec<_> = found.into_iter().filter(|address| !is_link_local_ip(address.ip())).collect();
            if addresses.is_empty() {
                return Err("the name has no address but link-local ones".into());
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

fn is_link_local(host: &str) -> bool {
    host.trim_matches(['[', ']']).parse().is_ok_and(is_link_local_ip)
}

fn is_link_local_ip(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_link_local(),
        // The second is where one cloud keeps its metadata.
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.segments() == [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_says_where_it_begins() {
        assert_eq!(content_range("bytes 10-19/20"), Some((10, Some(20))));
        assert_eq!(content_range("bytes 10-19/*"), Some((10, None)));
        for text in ["", "bytes */20", "bytes 10/20", "items 1-2/3", "bytes 10-19/x"] {
            assert_eq!(content_range(text), None, "{text}");
        }
    }

    #[test]
    fn link_local_addresses_are_known_however_they_are_written() {
        for host in ["169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]", "[fd00:ec2::254]"] {
            assert!(is_link_local(host), "{host}");
        }
        for host in ["127.0.0.1", "10.0.0.1", "models.example", "[::1]"] {
            assert!(!is_link_local(host), "{host}");
        }
    }
}
