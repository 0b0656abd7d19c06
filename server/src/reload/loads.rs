//! Loads versions aside, a few at a time, and remembers which are being loaded.
//!
//! Each load runs on one of a few threads that live as long as this does, so that a version that hangs in its trial
//! holds up no other, as long as there is memory for more than one trial. What is no longer wanted is abandoned: its
//! trial's child process is killed.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};
use mainstay_models::{ModelSpec, Reader, ReleasedVersion};

use super::aside::Aside;
use super::memory::{AT_ONCE_MAX, Share};
use super::trial::{self, Admission, Trial, TrialError};
use super::verdict::Wanted;
use super::{Failure, Loader, sentence};
use crate::catalog::LoadedVersion;
use crate::engine::{Engine, EngineChoice};
use crate::priority;

/// How many versions are remembered as having passed their trial; a rollback to one of them needs no other.
const PASSED_MAX: usize = 256;

/// A version's card, and what [`trial::load`] has made for it.
type Made = (ModelSpec, (Engine, Option<String>));

/// What became of a load.
pub(super) enum Outcome {
    /// The version can answer.
    Loaded(Arc<LoadedVersion>),
    /// It cannot.
    Failed(Failure),
    /// Nobody waited for it any more.
    Abandoned,
}

/// The versions that are being loaded, and the threads that do it.
pub(super) struct Loads {
    bench: Arc<Bench>,
    waiting: VecDeque<Wanted>,
    /// Those at hand, each with the word by which it is abandoned.
    running: HashMap<Wanted, Arc<AtomicBool>>,
    jobs: Option<Sender<(Wanted, Arc<AtomicBool>)>>,
    done: Receiver<(Wanted, Outcome)>,
    threads: Vec<JoinHandle<()>>,
}

/// What a load needs.
pub(super) struct Bench {
    pub reader: Reader,
    pub trial: Trial,
    pub loader: Loader,
    pub passed: Mutex<HashMap<ReleasedVersion, Admission>>,
}

impl Loads {
    pub(super) fn start(bench: Bench) -> std::io::Result<Self> {
        let bench = Arc::new(bench);
        // Only as many jobs are handed out as there are threads, so neither channel is ever full.
        let (jobs, taken) = crossbeam_channel::bounded::<(Wanted, Arc<AtomicBool>)>(AT_ONCE_MAX);
        let (give, done) = crossbeam_channel::bounded(AT_ONCE_MAX);
        let thread = |_| {
            let (bench, taken, give) = (Arc::clone(&bench), taken.clone(), give.clone());
            std::thread::Builder::new().name("load".to_owned()).spawn(move || {
                priority::step_back();
                let mut aside = Aside::default();
                for (wanted, abandoned) in taken {
                    priority::give_way();
                    let outcome = bench.load(&wanted, &abandoned, &mut aside);
                    if give.send((wanted, outcome)).is_err() {
                        return;
                    }
                }
            })
        };
        let threads = (0..AT_ONCE_MAX).map(thread).collect::<Result<_, _>>()?;
        Ok(Self { bench, waiting: VecDeque::new(), running: HashMap::new(), jobs: Some(jobs), done, threads })
    }

    pub(super) fn loader(&self) -> &Loader {
        &self.bench.loader
    }

    /// The results as they come; each is to be given to [`Loads::finished`].
    pub(super) fn done(&self) -> &Receiver<(Wanted, Outcome)> {
        &self.done
    }

    /// Notes that a load has ended, which makes room for the next.
    pub(super) fn finished(&mut self, wanted: &Wanted) {
        self.running.remove(wanted);
        self.hand_out();
    }

    /// Makes `wanted` what is loaded: begins what is new, goes on with what is at hand, abandons the rest.
    pub(super) fn want(&mut self, wanted: Vec<Wanted>) {
        for (version, abandoned) in &self.running {
            if !wanted.contains(version) && !abandoned.swap(true, Ordering::Relaxed) {
                tracing::info!(model = %version.name, version = %version.version, "abandoned what is no longer asked for");
            }
        }
        // One that was abandoned and is wanted again begins anew when its thread has let go of it.
        self.waiting = wanted.into_iter().filter(|wanted| !self.running.contains_key(wanted)).collect();
        self.hand_out();
    }

    fn hand_out(&mut self) {
        if self.waiting.is_empty() {
            // To ask what memory there is costs some hundred microseconds.
            return;
        }
        // Fewer than there are threads where memory is short.
        let at_once = Share::now().at_once;
        while self.running.len() < at_once
            && let Some(wanted) = self.waiting.pop_front()
        {
            let abandoned = Arc::new(AtomicBool::new(false));
            self.running.insert(wanted.clone(), Arc::clone(&abandoned));
            let jobs = self.jobs.as_ref().expect("the threads are there until the end");
            jobs.try_send((wanted, abandoned)).expect("there is a thread for each that is running");
        }
    }
}

impl Drop for Loads {
    fn drop(&mut self) {
        self.running.values().for_each(|abandoned| abandoned.store(true, Ordering::Relaxed));
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // The channel has room for what the others still have at hand.
            while let Ok(_unwanted) = self.done.try_recv() {}
            thread.join().expect("a load turns every failure into an outcome");
        }
    }
}

impl Bench {
    fn load(&self, wanted: &Wanted, abandoned: &AtomicBool, aside: &mut Aside) -> Outcome {
        let begun = Instant::now();
        let outcome = self.try_load(wanted, abandoned, aside);
        if let Outcome::Loaded(_) = &outcome {
            let (Wanted { name, version, bytes }, took_ms) = (wanted, begun.elapsed().as_millis() as u64);
            tracing::info!(model = %name, %version, sha256 = bytes.artifact.sha256.short(), took_ms, "loaded");
        }
        outcome
    }

    fn try_load(&self, wanted: &Wanted, abandoned: &AtomicBool, aside: &mut Aside) -> Outcome {
        if abandoned.load(Ordering::Relaxed) {
            return Outcome::Abandoned;
        }
        let bytes = wanted.bytes;
        let known = self.passed().get(&bytes).cloned();
        let read = self.spec_reader(wanted);
        let (loaded, admission) = match known {
            // One other thread for both, since each costs whoever answers a change of threads.
            Some(admission) if self.is_compiled(&admission) => {
                let load = self.engine_loader(bytes, &admission);
                (aside.run(move || read().and_then(&load)), admission)
            }
            known => {
                let spec = match aside.run(read) {
                    Ok(spec) => spec,
                    Err(failure) => return Outcome::Failed(failure),
                };
                let admission = match known {
                    Some(admission) => admission,
                    None => match self.trial.check_until(self.reader.root(), &bytes, abandoned) {
                        Ok(admission) => admission,
                        Err(TrialError::Abandoned) => return Outcome::Abandoned,
                        Err(error @ TrialError::Start(_)) => return Outcome::Failed(Failure::passing(&error)),
                        Err(lasting) => return Outcome::Failed(Failure::lasting(sentence(&lasting))),
                    },
                };
                if abandoned.load(Ordering::Relaxed) {
                    return Outcome::Abandoned;
                }
                let load = self.engine_loader(bytes, &admission);
                // ONNX Runtime has locks of its own, which those who run models may want meanwhile.
                let is_aside = self.is_compiled(&admission);
                (if is_aside { aside.run(move || load(spec.clone())) } else { load(spec) }, admission)
            }
        };
        let (spec, engine) = match loaded {
            Ok(loaded) => loaded,
            Err(failure) => return Outcome::Failed(failure),
        };
        let loaded = self.loader.with_engine(spec, bytes, engine);
        let mut passed = self.passed();
        if passed.len() == PASSED_MAX {
            passed.clear();
        }
        passed.insert(bytes, admission);
        Outcome::Loaded(Arc::new(loaded))
    }

    fn passed(&self) -> MutexGuard<'_, HashMap<ReleasedVersion, Admission>> {
        self.passed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What reads the card of a version, and holds it against the release.
    fn spec_reader(&self, wanted: &Wanted) -> impl Fn() -> Result<ModelSpec, Failure> + Send + Sync + use<> {
        let (reader, wanted) = (self.reader.clone(), wanted.clone());
        move || {
            let Wanted { name, version, bytes } = &wanted;
            let text = reader.blob(&bytes.spec).map_err(|error| Failure::passing(&error))?;
            let path = ModelSpec::path(name, version);
            let spec = ModelSpec::parse(&path, &text).map_err(|error| Failure::lasting(error.to_string()))?;
            if (&spec.name, &spec.version, &spec.artifact.blob) != (name, version, &bytes.artifact) {
                let reason = "the release and the version's model.yaml do not name the same version and file";
                return Err(Failure::lasting(reason));
            }
            Ok(spec)
        }
    }

    /// What makes the engine that runs a version with such a card, and says why it is not compiled, if it is not.
    fn engine_loader(
        &self,
        bytes: ReleasedVersion,
        admission: &Admission,
    ) -> impl Fn(ModelSpec) -> Result<Made, Failure> + Send + Sync + use<> {
        let Loader { engine: choice, sessions, .. } = self.loader;
        let (reader, admission) = (self.reader.clone(), admission.clone());
        move |spec| {
            let artifact = reader.blob(&bytes.artifact).map_err(|error| Failure::passing(&error))?;
            let engine = trial::load(choice, &admission, &artifact, &spec, sessions).map_err(Failure::lasting)?;
            Ok((spec, engine))
        }
    }

    /// Whether a version with such an admission is compiled here.
    fn is_compiled(&self, admission: &Admission) -> bool {
        *admission == Admission::Compiled && self.loader.engine != EngineChoice::Ort
    }
}
