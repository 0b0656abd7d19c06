//! Obtains the pinned ONNX Runtime library and tells the crate where it lies.
//!
//! The library comes out of the `onnxruntime` wheel, which pip or uv installs from the package index that they are
//! set up with, held to the digest in `onnxruntime/<platform>.txt`; the library itself is held to the digest in
//! [`PLATFORMS`]. Nothing is fetched where `ORT_DYLIB_PATH` names a library, or where an earlier build left the right one.
//! Whatever goes wrong is one sentence that says what to do.
//!
//! Compiles `proto/inference.proto` too, without a protoc.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::SystemTime;
use std::{env, fs};

use sha2::{Digest, Sha256};

const WHEEL: &str = "onnxruntime 1.31.1";
const OVERRIDE: &str = "ORT_DYLIB_PATH";

/// A target that the wheel exists for, and what the library in it must be.
struct Platform {
    os: &'static str,
    arch: &'static str,
    pip: &'static str,
    uv: &'static str,
    library: &'static str,
    sha256: &'static str,
}

const PLATFORMS: [Platform; 3] = [
    Platform {
        os: "linux",
        arch: "x86_64",
        pip: "manylinux_2_28_x86_64",
        uv: "x86_64-manylinux_2_28",
        library: "libonnxruntime.so.1.31.1",
        sha256: "fc44112fbe06d7d689c57e11d3862031f64711007e4ee020f8eed5185fd2c1d3",
    },
    Platform {
        os: "linux",
        arch: "aarch64",
        pip: "manylinux_2_28_aarch64",
        uv: "aarch64-manylinux_2_28",
        library: "libonnxruntime.so.1.31.1",
        sha256: "8aa3b76b28c778a2b1dd660d34161adb1d508c9ccd04ff9dc80e26eca5df8467",
    },
    Platform {
        os: "macos",
        arch: "aarch64",
        pip: "macosx_14_0_arm64",
        uv: "aarch64-apple-darwin",
        library: "libonnxruntime.1.31.1.dylib",
        sha256: "f8b06155feece624e55e49124340eea279da812529ae6fbc46a9f2be9c9cad2e",
    },
];

fn main() {
    match library() {
        Ok(path) => println!("cargo::rustc-env=MAINSTAY_ONNXRUNTIME={}", path.display()),
        Err(problem) => println!("cargo::error={problem}"),
    }
    // Where this file is a module of tests, what compiles the protocol is not there.
    #[cfg(not(test))]
    if let Err(problem) = protocol() {
        println!("cargo::error=cannot compile server/proto/inference.proto: {problem}; correct it");
    }
}

/// Compiles the gRPC protocol, and keeps its description for clients that ask for it.
#[cfg(not(test))]
fn protocol() -> Result<(), Box<dyn std::error::Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let file = folder.join("inference.proto");
    println!("cargo::rerun-if-changed={}", file.display());
    let mut compiler = protox::Compiler::new([&folder])?;
    compiler.open_file(&file)?;
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::write(out.join("inference.bin"), compiler.encode_file_descriptor_set())?;
    let builder = tonic_prost_build::configure().build_client(false).build_transport(false).bytes(".");
    builder.compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}

fn library() -> Result<PathBuf, String> {
    println!("cargo::rerun-if-env-changed={OVERRIDE}");
    if let Some(path) = env::var_os(OVERRIDE).filter(|path| !path.is_empty()) {
        return given(PathBuf::from(path));
    }
    let platform = Platform::of(&cargo("TARGET_OS"), &cargo("TARGET_ARCH"), &cargo("TARGET_ENV"))?;
    let requirements =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("onnxruntime/{}-{}.txt", platform.os, platform.arch));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let library = platform.obtain(&[Tool::pip(platform), Tool::uv(platform)], &requirements, &out)?;
    println!("cargo::rerun-if-changed={}", requirements.display());
    println!("cargo::rerun-if-changed={}", library.display());
    Ok(library)
}

/// What cargo says of the target; empty where it has nothing to say, such as the environment of macOS.
fn cargo(what: &str) -> String {
    env::var(format!("CARGO_CFG_{what}")).unwrap_or_default()
}

fn given(path: PathBuf) -> Result<PathBuf, String> {
    if path.is_absolute() && path.is_file() {
        Ok(path)
    } else {
        Err(format!(
            "{OVERRIDE} is `{}`: give the absolute path of a libonnxruntime that exists, or unset it",
            path.display()
        ))
    }
}

impl Platform {
    fn of(os: &str, arch: &str, abi: &str) -> Result<&'static Self, String> {
        PLATFORMS.iter().find(|p| p.os == os && p.arch == arch && (os != "linux" || abi == "gnu")).ok_or_else(|| {
            let target = [os, arch, abi].join(" ").trim_end().to_owned();
            format!(
                "no {WHEEL} library is pinned for {target}: build for linux x86_64 or aarch64 with glibc or for macos \
                 aarch64, or set {OVERRIDE} to the absolute path of a libonnxruntime for {target}"
            )
        })
    }

    /// The library's path in `out`, put there unless it is there already.
    fn obtain(&self, tools: &[Tool], requirements: &Path, out: &Path) -> Result<PathBuf, String> {
        // The name that the library has beside the executable too: without the version.
        let suffix = if self.os == "macos" { "dylib" } else { "so" };
        let library = out.join(format!("libonnxruntime.{suffix}"));
        if sha256(&library).is_ok_and(|digest| digest == self.sha256) {
            return Ok(library);
        }
        let wheel = out.join("wheel");
        let found = wheel.join("onnxruntime/capi").join(self.library);
        install(tools, requirements, &wheel)?;
        let digest = sha256(&found).map_err(|e| {
            format!("cannot read {} in the {WHEEL} wheel: {e}; correct its name in server/build.rs", self.library)
        })?;
        if digest != self.sha256 {
            return Err(format!(
                "{} in the {WHEEL} wheel has the sha256 {digest}, not {}: do not use it, and find out where it comes from",
                self.library, self.sha256
            ));
        }
        // Cargo runs this script again for a file newer than its own start: an old date saves the second build that.
        let settle = |from: &Path| -> std::io::Result<()> {
            fs::File::options().append(true).open(from)?.set_modified(SystemTime::UNIX_EPOCH)?;
            fs::rename(from, &library)?;
            fs::remove_dir_all(&wheel)
        };
        settle(&found)
            .map_err(|e| format!("cannot put {} in its place: {e}; make that folder writable", library.display()))?;
        Ok(library)
    }
}

/// A program that installs wheels.
struct Tool {
    program: OsString,
    /// What stands before `install`, and before `--version`.
    command: Vec<&'static str>,
    /// The arguments that only this tool understands.
    own: Vec<&'static str>,
}

impl Tool {
    fn pip(platform: &Platform) -> Self {
        let own = [
            "--implementation=cp",
            "--abi=cp311",
            "--disable-pip-version-check",
            "--no-input",
            "--platform",
            platform.pip,
        ];
        Self { program: "python3".into(), command: vec!["-m", "pip"], own: own.into() }
    }

    fn uv(platform: &Platform) -> Self {
        Self { program: "uv".into(), command: vec!["pip"], own: vec!["--python-platform", platform.uv] }
    }

    fn name(&self) -> String {
        format!("{} {}", self.program.display(), self.command.join(" "))
    }

    fn runs(&self) -> bool {
        let probe = Command::new(&self.program).args(&self.command).arg("--help").output();
        probe.is_ok_and(|output| output.status.success())
    }
}

/// Unpacks the wheel into the folder `wheel` with the first of `tools` that is there.
fn install(tools: &[Tool], requirements: &Path, wheel: &Path) -> Result<(), String> {
    let Some(tool) = tools.iter().find(|tool| tool.runs()) else {
        let names: Vec<String> = tools.iter().map(|tool| format!("`{}`", tool.name())).collect();
        return Err(format!(
            "cannot get {WHEEL}, since no {} runs here: install pip or uv, or set {OVERRIDE} to the absolute path of a \
             libonnxruntime",
            names.join(" and no ")
        ));
    };
    let _ = fs::remove_dir_all(wheel);
    let output = Command::new(&tool.program)
        .args(&tool.command)
        .args(["install", "--quiet", "--no-deps", "--only-binary=:all:", "--python-version=3.11", "--require-hashes"])
        .args(&tool.own)
        .arg("--target")
        .arg(wheel)
        .arg("-r")
        .arg(requirements)
        // Nothing but the wheel is wanted, and not a Python to go with it.
        .env("UV_PYTHON_DOWNLOADS", "never")
        // The macOS that the wheel is for; uv would assume its own.
        .env("MACOSX_DEPLOYMENT_TARGET", "14.0")
        .output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!(
            "cannot get {WHEEL} with `{}`, which says \"{}\": check the package index and the network and build again, or \
             set {OVERRIDE} to the absolute path of a libonnxruntime",
            tool.name(),
            last_words(&output)
        )),
        Err(e) => Err(format!("cannot run `{}`: {e}; try to run it by hand", tool.name())),
    }
}

/// The sentence in which a tool says why it failed: its last error, or else its last line.
fn last_words(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines = || text.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    let error =
        lines().find_map(|line| ["ERROR: ", "error: ", "cause: "].iter().find_map(|mark| line.strip_prefix(mark)));
    let line = error.or_else(|| lines().next()).map_or_else(|| output.status.to_string(), str::to_owned);
    line.split(". ").next().unwrap_or_default().to_owned()
}

fn sha256(path: &Path) -> std::io::Result<String> {
    let digest = Sha256::digest(fs::read(path)?);
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Cargo does not test build scripts: the engine, which loads the library, has this file as a module of its tests.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{LIBRARY_VARIABLE, Runtime};

    /// A platform whose library is the text `library`.
    const PLATFORM: Platform = Platform {
        os: "linux",
        arch: "x86_64",
        pip: "",
        uv: "",
        library: "libonnxruntime.so.1",
        sha256: "b718f1354f7247312eca086d9a024afe5fa717ddea5adeddd6f12bcf945b2e8c",
    };

    /// A stand-in for pip, which for `install` runs that shell script with the target folder in `$target`.
    ///
    /// Not a file, since one that has just been written cannot be run while another thread starts a process.
    fn tool(install: &'static str) -> Tool {
        let script = r#"
            [ "$1" = --help ] && exit 0
            while [ "$1" != --target ]; do shift; done
            target=$2/onnxruntime/capi
            eval "$0""#;
        Tool { program: "sh".into(), command: vec!["-c", script, install], own: vec![] }
    }

    fn obtain(folder: &Path, install: &'static str) -> Result<(), String> {
        let obtained = PLATFORM.obtain(&[tool(install)], Path::new("requirements.txt"), folder);
        obtained.map(|path| assert_eq!(path, folder.join("libonnxruntime.so")))
    }

    const GOOD: &str = "mkdir -p $target && printf library > $target/libonnxruntime.so.1";

    #[test]
    fn the_library_is_fetched_once_and_again_when_it_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        obtain(folder.path(), GOOD).unwrap();
        let library = folder.path().join("libonnxruntime.so");
        assert_eq!(fs::read(&library).unwrap(), b"library");
        assert_eq!(fs::metadata(&library).unwrap().modified().unwrap(), SystemTime::UNIX_EPOCH);
        assert!(!folder.path().join("wheel").exists());

        obtain(folder.path(), "exit 1").unwrap();
        fs::write(&library, "tampered").unwrap();
        obtain(folder.path(), "exit 1").unwrap_err();
        obtain(folder.path(), GOOD).unwrap();
        assert_eq!(fs::read(&library).unwrap(), b"library");
    }

    #[test]
    fn each_failure_is_one_sentence_that_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let refused = |install| obtain(folder, install).unwrap_err();
        let failed = refused("echo 'ERROR: no such version. Look for another.' >&2; echo '  see the log' >&2; exit 1");
        assert!(failed.contains("which says \"no such version\": check the package index"), "{failed}");
        assert!(refused("echo Killed >&2; exit 9").contains("which says \"Killed\""));
        assert!(refused("exit 3").contains("which says \"exit status: 3\""));
        let missing = refused("mkdir -p $target");
        assert!(missing.starts_with(&format!("cannot read libonnxruntime.so.1 in the {WHEEL} wheel")), "{missing}");
        let other = refused("mkdir -p $target && echo other > $target/libonnxruntime.so.1");
        assert!(other.contains("do not use it"), "{other}");
        let none = PLATFORM.obtain(&[], Path::new("requirements.txt"), folder).unwrap_err();
        assert!(none.contains("install pip or uv"), "{none}");
    }

    #[test]
    fn a_target_without_a_pinned_library_is_named() {
        for platform in &PLATFORMS {
            let found =
                Platform::of(platform.os, platform.arch, if platform.os == "linux" { "gnu" } else { "" }).unwrap();
            assert_eq!((found.library, found.sha256), (platform.library, platform.sha256));
            assert_eq!(Tool::pip(platform).own.last(), Some(&platform.pip));
        }
        for (os, arch, abi) in [("linux", "x86_64", "musl"), ("windows", "x86_64", "msvc"), ("macos", "x86_64", "")] {
            let refused = Platform::of(os, arch, abi).err().unwrap();
            assert!(refused.contains(&format!("is pinned for {os} {arch}")), "{refused}");
        }
    }

    #[test]
    fn a_given_library_must_exist_and_be_absolute() {
        assert_eq!(OVERRIDE, LIBRARY_VARIABLE);
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(given(file.path().into()).unwrap(), file.path());
        for bad in ["/nowhere/libonnxruntime.so", "Cargo.toml"] {
            assert!(given(bad.into()).unwrap_err().contains("give the absolute path"));
        }
    }

    #[test]
    fn the_loaded_library_is_a_pinned_one() {
        let runtime = Runtime::load().unwrap();
        // Who names a library tests with that one.
        if std::env::var_os(OVERRIDE).is_none() {
            let digest = sha256(runtime.library()).unwrap();
            assert!(PLATFORMS.iter().any(|platform| platform.sha256 == digest));
        }
    }
}
