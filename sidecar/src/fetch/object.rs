//! Object stores, through the `object_store` crate.
//!
//! What lets us in comes from where each cloud puts it for a workload, by the variables that its own tools read: roles
//! for web identities and pod identities on AWS, federated tokens on Azure, the metadata server on Google Cloud. The
//! files that they name are read anew for each download, since they rotate.

use std::sync::Arc;

use futures_util::StreamExt as _;
use mainstay_models::Uri;
use mainstay_models::uri::Scheme;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::{ClientOptions, HttpClient, HttpConnector};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, RetryConfig};

use super::{Failed, Opened, Variables, client};

/// Gives every store the client that was made here, with its bounds.
#[derive(Debug)]
struct Connector(reqwest::Client);

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}

/// Asks for the bytes of `uri` from `offset` on, of the version that `validator` names, if it does.
pub(super) async fn open(
    variables: &Variables,
    uri: &Uri,
    offset: u64,
    validator: Option<String>,
) -> Result<Opened, Failed> {
    let store = store(variables, uri)?;
    let path = Path::parse(uri.path()).map_err(|e| Failed::other(&e))?;
    let range = (offset > 0).then_some(GetRange::Offset(offset));
    let options = GetOptions { range, if_match: validator, ..GetOptions::default() };
    let answer = match store.get_opts(&path, options).await {
        Ok(answer) => answer,
        // Whatever is wrong with going on in the middle, such as another version, is told apart by asking for it whole.
        Err(_) if offset > 0 => return Err(Failed::NotFromTheMiddle),
        Err(error) => return Err(Failed::other(&error)),
    };
    Ok(Opened {
        offset: answer.range.start,
        total_bytes: Some(answer.meta.size),
        validator: answer.meta.e_tag.clone(),
        bytes: answer.into_stream().map(|piece| piece.map_err(|e| Failed::other(&e))).boxed(),
    })
}

fn store(variables: &Variables, uri: &Uri) -> Result<Arc<dyn ObjectStore>, Failed> {
    let connector = Connector(client()?);
    // No retries: the next pass is the retry, and it goes on where this one ended.
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    macro_rules! store {
        ($builder:ident, $prefix:literal, $with_name:ident) => {{
            let mut builder = $builder::new();
            for (name, value) in variables.of($prefix) {
                // Clouds have variables for other things too.
                if let Ok(key) = name.parse() {
                    builder = builder.with_config(key, value);
                }
            }
            let store = builder.$with_name(uri.authority()).with_retry(retry).with_http_connector(connector).build();
            Arc::new(store.map_err(|e| Failed::other(&e))?)
        }};
    }
    Ok(match uri.scheme() {
        Scheme::S3 => store!(AmazonS3Builder, "AWS_", with_bucket_name),
        Scheme::Gs => store!(GoogleCloudStorageBuilder, "GOOGLE_", with_bucket_name),
        Scheme::Az => store!(MicrosoftAzureBuilder, "AZURE_", with_container_name),
        Scheme::Https | Scheme::Http | Scheme::Oci => unreachable!("these are asked in ways of their own"),
    })
}
