//! Finds the ONNX Runtime library and loads it into the process, once.
//!
//! The official library starts a telemetry thread, looks up a host name and keeps a database under the home folder,
//! all of it while it is being loaded and by default. Only `ORT_DISABLE_TELEMETRY=1`, set before that, prevents it; the
//! call that switches telemetry off comes too late. So a process without the variable gets no runtime.

use std::ffi::{CStr, OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::{env, fmt};

use ort::AsPointer;
use ort::environment::Environment;
use ort::ep::{CPU, ExecutionProvider};
use ort::logging::LogLevel;

/// The environment variable that must be `1` before the library is loaded.
pub const TELEMETRY_VARIABLE: &str = "ORT_DISABLE_TELEMETRY";
/// The environment variable that names the library to load.
pub const LIBRARY_VARIABLE: &str = "ORT_DYLIB_PATH";
/// Where the build put the library, on the machine that built this program.
const BUILT: &str = env!("MAINSTAY_ONNXRUNTIME");

/// Never emptied: a process can have one ONNX Runtime environment in its life.
static LOADED: Mutex<Option<Runtime>> = Mutex::new(None);

/// ONNX Runtime, loaded. Clones are the same runtime.
#[derive(Clone)]
pub struct Runtime {
    environment: Environment,
    library: Arc<Path>,
    version: Arc<str>,
}

/// ONNX Runtime cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The library would send telemetry.
    #[error(
        "cannot load onnx runtime while it may send telemetry: set {TELEMETRY_VARIABLE}=1 before the program starts"
    )]
    Telemetry,
    /// There is no library.
    #[error(
        "cannot find the onnx runtime library at {}: put it there, or name it with {LIBRARY_VARIABLE}",
        .tried.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" or ")
    )]
    Missing {
        /// Where it was looked for.
        tried: Vec<PathBuf>,
    },
    /// There is a file, but not an ONNX Runtime that this program can use.
    #[error("cannot load the onnx runtime library {}: replace it with that of the release, or name another with {LIBRARY_VARIABLE}", .library.display())]
    Library {
        /// The file.
        library: PathBuf,
        /// Why not.
        source: ort::LoadDynamicError,
    },
    /// The library does not start.
    #[error("cannot start onnx runtime")]
    Start(#[from] ort::Error),
}

/// Sets `ORT_DISABLE_TELEMETRY=1` for this process. Call it first thing in `main`, before any thread exists.
pub fn disable_telemetry() {
    // The image sets the variable too: then nothing is written, and nothing can race.
    if telemetry_is_off(env::var_os(TELEMETRY_VARIABLE).as_deref()) {
        return;
    }
    // SAFETY: no other thread reads the environment while it is written, since `main` calls this before it starts any.
    #[allow(unsafe_code)]
    unsafe {
        env::set_var(TELEMETRY_VARIABLE, "1");
    }
}

impl Runtime {
    /// Where the library is that [`Runtime::load`] would load. It costs tens of MB, so it is loaded when a model needs it.
    pub fn locate() -> Result<PathBuf, RuntimeError> {
        find(candidates(env::var_os(LIBRARY_VARIABLE), env::current_exe().ok()))
    }

    /// Loads the library that `ORT_DYLIB_PATH` names, or else the one beside the executable, or else the build's.
    ///
    /// The first success holds for the life of the process: later calls return the same runtime.
    pub fn load() -> Result<Self, RuntimeError> {
        if !telemetry_is_off(env::var_os(TELEMETRY_VARIABLE).as_deref()) {
            return Err(RuntimeError::Telemetry);
        }
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = &*loaded {
            return Ok(runtime.clone());
        }
        let library = Self::locate()?;
        Ok(loaded.insert(Self::open(library)?).clone())
    }

    /// The library's file.
    pub fn library(&self) -> &Path {
        &self.library
    }

    /// The library's version, such as `1.31.1`.
    pub fn version(&self) -> &str {
        &self.version
    }

    pub(super) fn environment(&self) -> &Environment {
        &self.environment
    }

    fn open(library: PathBuf) -> Result<Self, RuntimeError> {
        let builder = match ort::init_from(&library) {
            Ok(builder) => builder,
            Err(source) => return Err(RuntimeError::Library { library, source }),
        };
        let environment = builder.with_name("mainstay").with_telemetry(false).with_logger(Arc::new(log)).build()?;
        environment.set_log_level(LogLevel::Warning);
        let version = version(&environment).unwrap_or("unknown").into();
        Ok(Self { environment, library: library.into(), version })
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime")
            .field("library", &self.library)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// The version that the library gives its own CPU provider. `ort` asks for the library's, and keeps the answer to itself.
fn version(environment: &Environment) -> Option<&str> {
    let cpu = environment.devices().find(|device| device.ep().is_ok_and(|name| name == CPU::NAME))?;
    // SAFETY: the device lives as long as the environment, its texts live as long as the device, and both functions
    // accept what the other gives; a missing key is a null pointer.
    #[allow(unsafe_code)]
    let version = unsafe {
        let texts = (ort::api().EpDevice_EpMetadata)(cpu.ptr());
        let version = (ort::api().GetKeyValue)(texts, c"version".as_ptr());
        if version.is_null() { return None } else { CStr::from_ptr(version) }
    };
    version.to_str().ok()
}

fn telemetry_is_off(value: Option<&OsStr>) -> bool {
    value.is_some_and(|value| value == "1")
}

/// Where the library may be. Who names a library gets that one, and not another when it is missing.
fn candidates(named: Option<OsString>, executable: Option<PathBuf>) -> Vec<PathBuf> {
    if let Some(named) = named.filter(|named| !named.is_empty()) {
        return vec![named.into()];
    }
    let file = Path::new(BUILT).file_name().expect("the build names a file");
    let beside = executable.and_then(|executable| Some(executable.parent()?.join(file)));
    beside.into_iter().chain([BUILT.into()]).collect()
}

fn find(tried: Vec<PathBuf>) -> Result<PathBuf, RuntimeError> {
    match tried.iter().find(|path| path.is_file()) {
        // Absolute, since the loader looks for a bare name elsewhere, and `ort` beside the executable.
        Some(path) => Ok(std::path::absolute(path).unwrap_or_else(|_| path.clone())),
        None => Err(RuntimeError::Missing { tried }),
    }
}

/// ONNX Runtime's own words, which say more than its errors.
fn log(level: LogLevel, _category: &str, _id: &str, location: &str, message: &str) {
    match level {
        LogLevel::Error | LogLevel::Fatal => tracing::error!(location, message, "onnx runtime failed"),
        LogLevel::Warning => tracing::warn!(location, message, "onnx runtime warned"),
        LogLevel::Info | LogLevel::Verbose => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn telemetry_is_off_only_with_a_one() {
        assert!(telemetry_is_off(Some("1".as_ref())));
        for on in [None, Some(""), Some("0"), Some("true"), Some("11")] {
            assert!(!telemetry_is_off(on.map(OsStr::new)), "{on:?}");
        }
    }

    #[test]
    fn a_named_library_that_is_missing_is_an_error_and_not_replaced_by_another() {
        let error = find(candidates(Some("/nowhere/libonnxruntime.so".into()), env::current_exe().ok())).unwrap_err();
        assert!(matches!(&error, RuntimeError::Missing { tried } if tried.len() == 1));
        assert_eq!(
            error.to_string(),
            "cannot find the onnx runtime library at /nowhere/libonnxruntime.so: put it there, or name it with ORT_DYLIB_PATH"
        );
    }

    #[test]
    fn a_library_beside_the_executable_comes_before_the_build_s() {
        let folder = tempfile::tempdir().unwrap();
        let executable = folder.path().join("mainstay");
        let tried = candidates(None, Some(executable.clone()));
        assert_eq!(find(tried.clone()).unwrap(), Path::new(BUILT));
        fs_err::write(&tried[0], "").unwrap();
        assert_eq!(find(tried.clone()).unwrap(), tried[0]);
        assert_eq!(tried[0].parent(), executable.parent());
    }

    #[test]
    fn a_second_load_is_the_same_runtime() {
        let first = Runtime::load().unwrap();
        let second = Runtime::load().unwrap();
        assert_eq!(first.library(), second.library());
        assert!(first.version().starts_with("1."), "{}", first.version());
    }
}
