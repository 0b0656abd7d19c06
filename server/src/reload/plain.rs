//! Carries out orders on models that no store asks for: those of a plain folder, and the shipped ones.
//!
//! One order at a time, on a thread of its own. What is served stays until what replaces it answers. Does not know who
//! gives orders.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arc_swap::ArcSwap;
use mainstay_models::ModelName;
use mainstay_models::embedded::Embedded;

use super::folder::FolderModel;
use super::order::{Action, Order, OrderError, Orders};
use super::{Loader, Status, Trial, Watch, embedded_status, sentence, swap};
use crate::catalog::{Catalog, CatalogModel};

/// Where models come from that no store asks for.
#[derive(Debug, Clone)]
pub enum Source {
    /// A plain folder.
    Folder(PathBuf),
    /// The program itself.
    Shipped(&'static [Embedded]),
}

/// Keeps a catalog that no store asks for.
pub struct Plain {
    /// Where its models come from.
    pub source: Source,
    /// Tries what comes from a folder.
    pub trial: Trial,
    /// Loads.
    pub loader: Loader,
    /// What is served.
    pub catalog: Arc<ArcSwap<Catalog>>,
    /// How it went.
    pub status: Arc<ArcSwap<Status>>,
}

impl Plain {
    /// Carries out orders on a thread of its own until the returned [`Watch`] is stopped.
    pub fn watch(self) -> std::io::Result<(Orders, Watch)> {
        let (orders, taken) = Orders::channel();
        let (stop, stopped) = crossbeam_channel::bounded::<()>(0);
        let abandoned = Arc::new(AtomicBool::new(false));
        let word = Arc::clone(&abandoned);
        let thread = std::thread::Builder::new().name("reload".to_owned()).spawn(move || {
            loop {
                crossbeam_channel::select! {
                    recv(stopped) -> _ => return,
                    recv(taken) -> order => match order {
                        Ok(order) => self.obey(order, &word),
                        // Nobody is left who could give one.
                        Err(_) => return,
                    },
                }
            }
        })?;
        Ok((orders, Watch { stop, abandoned, thread }))
    }

    fn obey(&self, order: Order, abandoned: &AtomicBool) {
        if !order.is_awaited() {
            return;
        }
        let result = match order.action {
            Action::Load => self.load(&order.model, abandoned),
            Action::Unload => self.unload(&order.model),
        };
        order.answer(result);
    }

    fn load(&self, name: &ModelName, abandoned: &AtomicBool) -> Result<(), OrderError> {
        let before = self.catalog.load_full();
        let served = before.models.get(name).cloned().unwrap_or_default();
        let loaded = match &self.source {
            Source::Folder(root) => {
                let read = self.loader.folder_model(root, name, &served, &self.trial, abandoned);
                let read = read.map_err(|error| {
                    tracing::warn!(reason = sentence(&error), "cannot read the folder of models");
                    OrderError::Source
                })?;
                read.map_err(|known| OrderError::Unknown { name: name.clone(), known })?
            }
            Source::Shipped(_) if served.stable.is_some() => return Ok(()),
            Source::Shipped(models) => self.shipped(name, models)?,
        };
        let FolderModel { model, statuses, failed } = loaded;
        swap(&self.catalog, &self.loader.metrics, &before, before.with(name.clone(), model));
        self.status.store(Arc::new(self.status.load().with(name, statuses)));
        match failed {
            None => Ok(()),
            Some((version, reason)) => Err(OrderError::failed(name, &version, reason)),
        }
    }

    fn shipped(&self, name: &ModelName, models: &[Embedded]) -> Result<FolderModel, OrderError> {
        let of_name: Vec<Embedded> = models.iter().filter(|model| model.name == name.as_str()).copied().collect();
        if of_name.is_empty() {
            return Err(OrderError::unknown(name, self.catalog.load().models.keys()));
        }
        let mut loaded = self.loader.embedded(&of_name).map_err(|error| {
            tracing::warn!(reason = sentence(&error), "cannot load a shipped model");
            OrderError::Source
        })?;
        let statuses = embedded_status(&loaded).models;
        Ok(FolderModel { model: loaded.models.remove(name).unwrap_or_default(), statuses, failed: None })
    }

    fn unload(&self, name: &ModelName) -> Result<(), OrderError> {
        let before = self.catalog.load_full();
        if !before.models.contains_key(name) {
            return Err(OrderError::unknown(name, before.models.keys()));
        }
        swap(&self.catalog, &self.loader.metrics, &before, before.with(name.clone(), CatalogModel::default()));
        self.status.store(Arc::new(self.status.load().unloaded(name)));
        tracing::info!(model = %name, "unloaded by an order");
        Ok(())
    }
}
