//! HTTP in, tensors through an engine, bytes out.
//!
//! A request goes one way: [`http`] to [`api`] to [`wire`] to [`catalog`] to [`batch`] to [`engine`] and back. A
//! release goes another: [`reload`] reads the store, loads engines and swaps the catalog. Both meet in one pointer.

use std::future::Future;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use mainstay_models::{Reader, embedded};
use tokio::sync::watch;

use crate::catalog::Catalog;

pub mod admin;
mod allocator;
pub mod api;
pub mod batch;
pub mod catalog;
pub mod engine;
pub mod grpc;
pub mod http;
pub mod monitor;
pub mod page;
mod priority;
pub mod reference;
pub mod reload;
pub mod rows;
pub mod settings;
pub mod tensor;
pub mod wire;

pub use settings::Settings;

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// ONNX Runtime cannot be had.
    #[error(transparent)]
    Runtime(#[from] engine::RuntimeError),
    /// An address is taken or not this machine's.
    #[error(transparent)]
    Bind(#[from] http::BindError),
    /// A shipped model does not load.
    #[error(transparent)]
    Embedded(#[from] reload::EmbeddedError),
    /// A plain folder has no model that can be served.
    #[error(transparent)]
    Folder(#[from] reload::FolderError),
    /// The operating system refused a thread or a socket.
    #[error("cannot start the server")]
    Io(#[from] std::io::Error),
}

/// Where a started server answers; the ports are the real ones where 0 was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// Predictions.
    pub listen: SocketAddr,
    /// Operators.
    pub admin: SocketAddr,
}

/// Serves until `shutdown` completes, then drains. Blocks; `program` is this program, which trials run again.
pub fn serve(
    settings: &Settings,
    program: PathBuf,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    let processors = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let threads = NonZeroUsize::new(settings.threads).unwrap_or(processors);
    // This thread accepts connections and answers operators; requests are answered on the cores of `http`.
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(run(settings, program, threads, shutdown))
}

async fn run(
    settings: &Settings,
    program: PathBuf,
    threads: NonZeroUsize,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    let listener = http::bind(settings.listen, "--listen")?;
    let admin_listener = http::bind(settings.admin, "--admin")?;
    let addresses = Addresses { listen: listener.local_addr()?, admin: admin_listener.local_addr()? };

    // A missing library is told now, not when the first model needs it.
    let library = engine::Runtime::locate()?;
    let library = library.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let metrics = Arc::new(monitor::Metrics::new(&library));
    let loader = reload::Loader { engine: settings.engine, metrics: Arc::clone(&metrics), sessions: threads };
    let catalog = Arc::new(ArcSwap::default());
    let status = Arc::new(ArcSwap::default());
    let trial = reload::Trial { program };
    let (orders, reload) = if let Some(store) = &settings.store {
        let (catalog, status) = (Arc::clone(&catalog), Arc::clone(&status));
        let mut reloader = reload::Reloader::new(Reader::new(store), trial, loader, catalog, status)?;
        let orders = settings.repository_control.then(|| reloader.take_orders());
        (orders, Some(reloader.watch()?))
    } else {
        let plain = plain(settings, trial, loader, Arc::clone(&catalog), Arc::clone(&status)).await?;
        if settings.repository_control {
            let (orders, watch) = plain.watch()?;
            (Some(orders), Some(watch))
        } else {
            (None, None)
        }
    };

    let limits = api::RequestLimits {
        body_bytes_max: settings.body_bytes_max,
        rows_max: settings.rows_max,
        timeout: Duration::from_secs_f64(settings.request_timeout_s),
    };
    let runner = batch::Runner::start(threads.get(), settings.queue_max)?;
    let draining = Arc::new(AtomicBool::new(false));
    let (catalog_of_api, metrics_of_api) = (Arc::clone(&catalog), Arc::clone(&metrics));
    let aliases = api::Aliases { health: settings.health_route.clone(), predict: settings.predict_route.clone() };
    let api = api::Api::new(catalog_of_api, runner, metrics_of_api, limits, Arc::clone(&draining));
    let repository = api::Repository { status: Arc::clone(&status), orders };
    let api = Arc::new(api.with_aliases(aliases).with_repository(repository));
    let admin = admin::Admin { catalog, status, metrics, draining: Arc::clone(&draining) };

    let (stop, stopped) = watch::channel(());
    let told = tokio::spawn(async move {
        shutdown.await;
        tracing::info!("stopping");
        draining.store(true, Ordering::Relaxed);
        drop(stop);
    });
    // The admin listener answers until the drain is over: probes must not fail meanwhile.
    let (drained, drain_over) = tokio::sync::oneshot::channel::<()>();
    let admin = tokio::spawn(admin::serve(admin_listener, admin, async {
        let _ = drain_over.await;
    }));
    tracing::info!(listen = %addresses.listen, admin = %addresses.admin, "listening");
    let limits = http::ConnectionLimits {
        connections_max: settings.connections_max,
        requests_max: settings.requests_max,
        drain_timeout: Duration::from_secs_f64(settings.drain_timeout_s),
    };
    let mut until = stopped.clone();
    let grpc = Arc::new(grpc::Grpc::new(&api));
    http::serve(listener, Arc::clone(&api), grpc, threads, limits, async move {
        // The sender sends nothing; it is dropped.
        let _ = until.changed().await;
    })
    .await?;
    drop(drained);
    told.await.expect("waiting for the signal does not panic");
    // A probe's connection that stays open must not keep the server.
    let _ = tokio::time::timeout(Duration::from_secs(1), admin).await;
    if let Some(reload) = reload {
        tokio::task::spawn_blocking(move || reload.stop()).await.expect("the reload does not panic");
    }
    // Connections that were cut off at the end of the drain still hold the api; their work ends with the process.
    if let Some(api) = Arc::into_inner(api) {
        tokio::task::spawn_blocking(move || api.stop()).await.expect("the workers do not panic");
    }
    tracing::info!("stopped");
    Ok(())
}

/// What is served where no store asks for anything, loaded: a plain folder, or the shipped models.
async fn plain(
    settings: &Settings,
    trial: reload::Trial,
    loader: reload::Loader,
    catalog: Arc<ArcSwap<Catalog>>,
    status: Arc<ArcSwap<reload::Status>>,
) -> Result<reload::Plain, ServeError> {
    let source = settings.models.clone().map_or(reload::Source::Shipped(&embedded::MODELS), reload::Source::Folder);
    let plain = reload::Plain { source, trial, loader, catalog, status };
    // Trials take a while, and this thread has no other work yet; but a runtime's threads must not be blocked.
    tokio::task::spawn_blocking(move || {
        let (served, told) = match &plain.source {
            reload::Source::Folder(folder) => plain.loader.folder(folder, &plain.trial)?,
            reload::Source::Shipped(models) => {
                let shipped = plain.loader.embedded(models)?;
                let told = reload::embedded_status(&shipped);
                (shipped, told)
            }
        };
        plain.status.store(Arc::new(told));
        plain.catalog.store(Arc::new(served));
        Ok(plain)
    })
    .await
    .expect("a load turns every failure into an error")
}
