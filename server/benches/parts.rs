//! What each part of a request costs by itself: `cargo bench -p mainstay-server --bench parts`.
//!
//! The forest is that of benches/load. A hot loop flatters: in a server, caches are cold and everything costs more.

#![allow(missing_docs, clippy::unwrap_used, reason = "a program for people at a terminal")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mainstay_models::{Blob, Commit, ModelSpec, Publisher, Release, ReleasedModel, ReleasedVersion};
use mainstay_server::batch::{Place, Runner};
use mainstay_server::catalog::{Catalog, CatalogModel, LoadedVersion};
use mainstay_server::engine::{Engine, Runtime};
use mainstay_server::monitor::{Metrics, Phases};
use mainstay_server::rows::Rows;
use mainstay_server::wire::{self, Signature};
use ndarray::{Array2, ArrayView1, ArrayView2, Axis};

const CARD: &[u8] = include_bytes!("../../benches/load/forest/model.yaml");
const FILE: &[u8] = include_bytes!("../../benches/load/forest/model.onnx");
const FEATURES: usize = 20;

fn spec() -> ModelSpec {
    ModelSpec::parse("model.yaml", CARD).unwrap()
}

/// Values about as the forest was trained on them, the same ones each time.
fn rows(count: usize) -> Array2<f32> {
    Array2::from_shape_fn((count, FEATURES), |(row, column)| {
        let bits = (row * FEATURES + column) as u32;
        let bits = bits.wrapping_mul(0x9e37_79b9);
        ((bits ^ (bits >> 15)) % 60_000) as f32 / 1e4 - 3.0
    })
}

fn loaded(engine: Engine) -> Arc<LoadedVersion> {
    let spec = spec();
    let blobs = ReleasedVersion { spec: Blob::of(CARD), artifact: spec.artifact.blob };
    let (signature, metrics) = (Signature::new(&spec), Metrics::new("").version(&spec));
    Arc::new(LoadedVersion { spec, blobs, signature, engine, not_compiled: None, metrics })
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    let signature = Signature::new(&spec());
    let names: Vec<_> = (0..FEATURES).map(|index| format!("f{index:02}")).collect();
    let list =
        |row: ArrayView1<'_, f32>| format!("[{}]", row.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
    let record = |row: ArrayView1<'_, f32>| {
        let fields = names.iter().zip(row).map(|(name, value)| format!("\"{name}\": {value}"));
        format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
    };
    let lists = |rows: ArrayView2<'_, f32>| {
        format!("{{\"instances\": [{}]}}", rows.rows().into_iter().map(list).collect::<Vec<_>>().join(", "))
    };
    let records =
        |rows: ArrayView2<'_, f32>| format!("[{}]", rows.rows().into_iter().map(record).collect::<Vec<_>>().join(", "));
    for (count, bodies) in [(1, 4096), (100, 64)] {
        // Other values each time: else their signs and lengths are known by heart.
        let all = rows(count * bodies);
        let bodies = || all.axis_chunks_iter(Axis(0), count);
        group.throughput(Throughput::Elements(count as u64));
        for (form, bodies) in
            [("lists", bodies().map(lists).collect::<Vec<_>>()), ("records", bodies().map(records).collect())]
        {
            let mut bodies = bodies.iter().cycle();
            group.bench_function(BenchmarkId::new(form, count), |b| {
                b.iter(|| {
                    let body = bodies.next().expect("a cycle has no end");
                    wire::decode_records(&signature, black_box(body.as_bytes()), 10_000).unwrap()
                });
            });
        }
    }
}

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    let spec = spec();
    let engine = Engine::compile(FILE, &spec).unwrap();
    for count in [1, 100] {
        let answer = engine.run(&rows(count).into(), later()).unwrap();
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter(|| wire::encode_answer(&spec, None, black_box(&answer)));
        });
    }
}

fn engine(c: &mut Criterion) {
    let mut group = c.benchmark_group("engine");
    let spec = spec();
    let runtime = Runtime::load().unwrap();
    let engines = [
        ("compiled", Engine::compile(FILE, &spec).unwrap()),
        ("onnxruntime", Engine::load(&runtime, FILE, &spec, NonZeroUsize::MIN).unwrap()),
    ];
    for count in [1, 8, 64, 100, 1024] {
        // Other rows each time: else the branches of the trees are known by heart.
        let all = rows(count * 64);
        let all: Vec<Rows> = all.axis_chunks_iter(Axis(0), count).map(|rows| rows.to_owned().into()).collect();
        group.throughput(Throughput::Elements(count as u64));
        for (name, engine) in &engines {
            let mut at = 0;
            group.bench_function(BenchmarkId::new(*name, count), |b| {
                b.iter(|| {
                    at = (at + 1) % all.len();
                    engine.run(&all[at], later()).unwrap()
                });
            });
        }
    }
}

/// All that a request is counted with, from its beginning to its answer, and what it would look at the clock for without.
fn monitor(c: &mut Criterion) {
    let mut group = c.benchmark_group("monitor");
    let metrics = Metrics::new("");
    let version = loaded(Engine::compile(FILE, &spec()).unwrap());
    let row: Rows = rows(1).into();
    group.bench_function("a request", |b| {
        b.iter(|| {
            let begun = Instant::now();
            let _in_flight = metrics.begin();
            let mut phases = Phases::decoded(begun, row.len());
            version.metrics.received(&version.spec, version.signature.layout(), black_box(&row));
            phases.ran(None);
            version.metrics.answered(&phases);
        });
    });
    group.bench_function("its deadline alone", |b| {
        b.iter(|| {
            let deadline = Instant::now() + Duration::from_secs(30);
            black_box(Instant::now() >= deadline)
        });
    });
}

fn queue(c: &mut Criterion) {
    let mut group = c.benchmark_group("runner");
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let runner = Runner::start(1, 16).unwrap();
    let version = loaded(Engine::compile(FILE, &spec()).unwrap());
    let most = version.engine.inline_rows_max();
    for (how, count) in [("inline", 1), ("inline, the most rows", most), ("queued, one row more", most + 1)] {
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(how, |b| {
            b.iter_batched(
                || rows(count),
                |rows| {
                    tokio
                        .block_on(runner.run(&version, rows.into(), Place::default(), Instant::now(), later()))
                        .unwrap()
                },
                BatchSize::SmallInput,
            );
        });
    }
    runner.stop();
}

fn pick(c: &mut Criterion) {
    let mut group = c.benchmark_group("catalog");
    let version = loaded(Engine::compile(FILE, &spec()).unwrap());
    for count in [1, 200] {
        let models = (0..count).map(|index| {
            let versions = BTreeMap::from([(version.spec.version.clone(), Arc::clone(&version))]);
            let model = CatalogModel { stable: Some(version.spec.version.clone()), versions, commit: None };
            (format!("forest-{index:03}").parse().unwrap(), model)
        });
        let default = Some("forest-000".parse().unwrap());
        let catalog = Catalog { models: models.collect(), default, ..Catalog::default() };
        let last = format!("forest-{:03}", count - 1);
        group
            .bench_function(BenchmarkId::new("pick", count), |b| b.iter(|| catalog.pick(Some(black_box(&last)), None)));
    }
}

/// What a server does itself of a reload, without the trial.
fn load(c: &mut Criterion) {
    let mut group = c.benchmark_group("load");
    group.sample_size(20);
    let spec = spec();
    group.bench_function("card", |b| b.iter(|| ModelSpec::parse("model.yaml", black_box(CARD)).unwrap()));
    group.bench_function("digest", |b| b.iter(|| Blob::of(black_box(FILE))));
    group.bench_function("compile", |b| b.iter(|| Engine::compile(black_box(FILE), &spec).unwrap()));
}

fn publish(c: &mut Criterion) {
    let mut group = c.benchmark_group("store");
    group.sample_size(20);
    let folder = tempfile::tempdir().unwrap();
    let publisher = Publisher::open(folder.path().join("store")).unwrap();
    let version: mainstay_models::Version = "1.0.0".parse().unwrap();
    let bytes = ReleasedVersion { spec: Blob::of(CARD), artifact: Blob::of(FILE) };
    publisher.add(&bytes.spec, CARD).unwrap();
    publisher.add(&bytes.artifact, FILE).unwrap();
    let model = ReleasedModel { stable: version.clone(), versions: BTreeMap::from([(version, bytes)]), fallback: None };
    let commit = Commit {
        id: "1".repeat(40).parse().unwrap(),
        author: "bench".to_owned(),
        subject: "Serve the forest".to_owned(),
        time_unix_s: 0,
    };
    let name: mainstay_models::ModelName = "forest".parse().unwrap();
    let models = BTreeMap::from([(name.clone(), model)]);
    let release = Release::new("prod".parse().unwrap(), commit, name, models, Vec::new()).unwrap();
    group.bench_function("publish and collect", |b| {
        b.iter(|| {
            publisher.publish(&release).unwrap();
            publisher.collect(5).unwrap()
        });
    });
    group.bench_function("read current", |b| {
        let reader = publisher.reader();
        b.iter(|| reader.current().unwrap());
    });
}

fn short() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2))
}

criterion_group!(name = parts; config = short(); targets = decode, encode, engine, monitor, queue, pick, load, publish);
criterion_main!(parts);
