//! Object stores and web servers, through the `object_store` crate.
//!
//! What lets us in comes from where each cloud puts it for a workload, by the variables that its own tools read: roles
//! for web identities and pod identities on AWS, federated tokens on Azure, the metadata server on Google Cloud. Each
//! is read anew for each download, since they rotate. A plain web server gets nothing that lets anybody in.

use std::sync::Arc;

use futures_util::StreamExt as _;
use mainstay_models::Uri;
use mainstay_models::uri::Scheme;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::{ClientOptions, HttpClient, HttpConnector};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, RetryConfig};

use super::{Failed, Opened, client, following_client};

/// Gives every store the client that was made here, with its bounds.
#[derive(Debug)]
struct Connector(reqwest::Client);

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}

/// Asks for the bytes of `uri` from `offset` on.
pub(super) async fn open(uri: &Uri, offset: u64) -> Result<Opened, Failed> {
    let store = store(uri)?;
    let path = Path::parse(uri.path()).map_err(|e| Failed::other(&e))?;
    let mut options = GetOptions::default();
    if offset > 0 {
        options.range = Some(GetRange::Offset(offset));
    }
    let answer = match store.get_opts(&path, options).await {
        Ok(answer) => answer,
        // Whatever is wrong with going on in the middle, such as a shorter file, is told apart by asking for it whole.
        Err(_) if offset > 0 => return Err(Failed::NotFromTheMiddle),
        Err(error) => return Err(Failed::other(&error)),
    };
    Ok(Opened { bytes: answer.into_stream().map(|piece| piece.map_err(|e| Failed::other(&e))).boxed() })
}

fn store(uri: &Uri) -> Result<Arc<dyn ObjectStore>, Failed> {
    // No retries: the next pass is the retry, and it goes on where this one ended.
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let name = uri.authority();
    let fail = |e: object_store::Error| Failed::other(&e);
    Ok(match uri.scheme() {
        Scheme::S3 => {
            let store = AmazonS3Builder::from_env().with_bucket_name(name).with_retry(retry);
            Arc::new(store.with_http_connector(Connector(client()?)).build().map_err(fail)?)
        }
        Scheme::Gs => {
            let store = GoogleCloudStorageBuilder::from_env().with_bucket_name(name).with_retry(retry);
            Arc::new(store.with_http_connector(Connector(client()?)).build().map_err(fail)?)
        }
        Scheme::Az => {
            let store = MicrosoftAzureBuilder::from_env().with_container_name(name).with_retry(retry);
            Arc::new(store.with_http_connector(Connector(client()?)).build().map_err(fail)?)
        }
        Scheme::Https | Scheme::Http => {
            let store = HttpBuilder::new().with_url(format!("{}://{name}", uri.scheme().as_str())).with_retry(retry);
            Arc::new(store.with_http_connector(Connector(following_client()?)).build().map_err(fail)?)
        }
        Scheme::Oci => unreachable!("registries are asked in a way of their own"),
    })
}
