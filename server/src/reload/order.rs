//! Orders to load and to unload a model, from requests to the one thread that changes what is served.
//!
//! An order is a message with a deadline, so that a request never waits for a lock and two orders never cross. Few may
//! wait; one whose caller has left is not begun. Does not know how a model is loaded.

use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};
use mainstay_models::{ModelName, Version};
use tokio::sync::oneshot;

/// The most orders that wait to be taken, and the most loads that are waited for.
pub(super) const ORDERS_MAX: usize = 64;

/// What is ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// That the model answers, with what its source has of it now.
    Load,
    /// That it does not, until it is loaded again or its source asks for something else of it.
    Unload,
}

/// Why an order was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// There is no such model to load or unload.
    #[error("there is no model `{name}` to load or unload; there are {}", known.join(", "))]
    Unknown {
        /// The name.
        name: ModelName,
        /// The models that there are.
        known: Vec<String>,
    },
    /// No release has been read yet.
    #[error("no release has been read yet; try again shortly")]
    Early,
    /// A version of the model does not answer.
    #[error("cannot load model `{name}`: version {version}: {reason}")]
    Failed {
        /// The model.
        name: ModelName,
        /// The version.
        version: Version,
        /// Why, for whoever may load models.
        reason: String,
    },
    /// The source of the models cannot be read.
    #[error("cannot read the models; the server's log says why")]
    Source,
    /// Too many orders are being carried out.
    #[error("too many orders to load or unload a model are being carried out; try again in a second")]
    Busy,
    /// The deadline passed; a load that has begun goes on.
    #[error(
        "the load was not done within the request's time; it may go on, and the model's readiness tells when it is"
    )]
    Late,
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopping,
}

/// Where requests leave orders.
#[derive(Debug, Clone)]
pub struct Orders(Sender<Order>);

/// An order, and who waits for it.
#[derive(Debug)]
pub(super) struct Order {
    pub action: Action,
    pub model: ModelName,
    answer: oneshot::Sender<Result<(), OrderError>>,
}

impl Orders {
    /// Where to leave orders, and where to take them.
    pub(super) fn channel() -> (Self, Receiver<Order>) {
        let (give, take) = crossbeam_channel::bounded(ORDERS_MAX);
        (Self(give), take)
    }

    /// Gives an order and waits until it is carried out, no longer than until `deadline`. Dropping the future gives up an
    /// order that has not been taken.
    pub async fn give(&self, action: Action, model: ModelName, deadline: Instant) -> Result<(), OrderError> {
        let (answer, answered) = oneshot::channel();
        self.0.try_send(Order { action, model, answer }).map_err(|_| OrderError::Busy)?;
        match tokio::time::timeout_at(deadline.into(), answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(OrderError::Stopping),
            Err(_) => Err(OrderError::Late),
        }
    }
}

impl OrderError {
    pub(super) fn unknown<'n>(name: &ModelName, known: impl Iterator<Item = &'n ModelName>) -> Self {
        Self::Unknown { name: name.clone(), known: known.map(ToString::to_string).collect() }
    }

    /// The failure of a version, for a reason that may be told, or for one that only the server's status tells.
    pub(super) fn failed(name: &ModelName, version: &Version, reason: Option<String>) -> Self {
        let reason = reason.unwrap_or_else(|| "the server's status says why".to_owned());
        Self::Failed { name: name.clone(), version: version.clone(), reason }
    }
}

impl Order {
    /// Whether somebody still waits for it.
    pub(super) fn is_awaited(&self) -> bool {
        !self.answer.is_closed()
    }

    pub(super) fn answer(self, result: Result<(), OrderError>) {
        // A caller that left wants no answer.
        let _ = self.answer.send(result);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn an_order_is_answered_or_its_time_is_over_and_few_may_wait() {
        let (orders, taken) = Orders::channel();
        let give = |deadline| {
            let orders = orders.clone();
            async move { orders.give(Action::Load, "iris".parse().unwrap(), deadline).await }
        };
        let later = Instant::now() + Duration::from_secs(60);
        assert_eq!(give(Instant::now()).await, Err(OrderError::Late));
        assert!(!taken.recv().unwrap().is_awaited(), "its caller has left");
        let answered = tokio::spawn(give(later));
        tokio::task::spawn_blocking({
            let taken = taken.clone();
            move || taken.recv().unwrap().answer(Ok(()))
        })
        .await
        .unwrap();
        assert_eq!(answered.await.unwrap(), Ok(()));
        for _ in 0..ORDERS_MAX {
            assert_eq!(give(Instant::now()).await, Err(OrderError::Late));
        }
        assert_eq!(give(later).await, Err(OrderError::Busy));
        while taken.try_recv().is_ok() {}
        let unanswered = tokio::spawn(give(later));
        tokio::task::spawn_blocking(move || drop(taken.recv().unwrap())).await.unwrap();
        assert_eq!(unanswered.await.unwrap(), Err(OrderError::Stopping));
    }
}
