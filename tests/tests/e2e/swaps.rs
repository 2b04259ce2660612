//! A model is replaced over and over while clients ask: no request fails, each is answered by one bundle as a whole, and
//! the process neither grows nor gathers threads or files.
//!
//! `HEDGE_SWAPS=1000 cargo test --workspace --test e2e swaps` is the long run; `docs/performance.md` has its figures.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hedge_tests::binaries::binaries;
use hedge_tests::daemons::{Agent, AgentSetup};
use hedge_tests::digits::{self, SIDE};
use hedge_tests::http::Client;
use hedge_tests::npy::Array;
use hedge_tests::process::Held;
use hedge_tests::program::command;
use hedge_tests::{say, wait_for};
use serde_json::Value;

/// How many swaps, where `HEDGE_SWAPS` does not say.
const SWAPS: usize = 60;

/// The first of so many parts of the swaps warms up, but at least so many swaps do: pools fill, code is read in.
const WARM_UP_PART: usize = 10;
const LEAST_WARM_UP: usize = 20;

const CLIENTS: usize = 4;

/// The model's name in the API; the agent serves another one beside it.
const MODEL: &str = "swapped";

/// Different images, and the most that one request has of them.
const IMAGES: usize = 16;
const MOST_ROWS: usize = 4;

/// Last bits depend on how a batch was filled; this much, as a share of the largest value, is far less than what the two
/// models differ by.
const TOLERANCE: f64 = 1e-4;

/// How much the resident set may grow after the warm-up.
const GROWTH: f64 = 1.10;

/// Idle threads of the runtime's pool for blocking work end by themselves after 10 s.
const SETTLE_LIMIT: Duration = Duration::from_secs(30);

/// A bundle and what it answers.
struct Bundle {
    file: PathBuf,
    digest: String,
    /// One for each image.
    answers: Vec<Vec<f64>>,
}

/// What clients and the one who swaps share.
#[derive(Default)]
struct Run {
    done: AtomicBool,
    /// Answers of the first and of the second bundle.
    answered: [AtomicUsize; 2],
}

/// Ends the run for everybody when one of them is through or fails.
struct Ending<'a>(&'a Run);

#[test]
fn swaps_under_load_fail_no_request_and_leave_nothing_behind() {
    let asked = std::env::var("HEDGE_SWAPS").ok();
    let swaps = asked.as_ref().map_or(SWAPS, |count| count.parse().expect("HEDGE_SWAPS is a number"));
    let outer = tempfile::tempdir().expect("a temporary folder");
    let images = digits::images(11, IMAGES);
    let bundles = ["edge", "cloud"].map(|model| Bundle::make(outer.path(), model, &images));
    assert_ne!(bundles[0].digest, bundles[1].digest);

    let repository = outer.path().join("repository");
    std::fs::create_dir(&repository).expect("a folder for models");
    bundles[0].put_into(&repository);
    let agent = start(&repository);
    // Connected before anything is counted, and served by the bundle that is there.
    let clients = [(); CLIENTS].map(|()| {
        let mut client = agent.client();
        assert_eq!(ask(&mut client, &bundles, &images, 0), 0);
        client
    });
    let run = Run::default();
    let started = Instant::now();
    let (warm, end) = std::thread::scope(|threads| {
        let _ending = Ending(&run);
        for client in clients {
            threads.spawn(|| ask_until_done(client, &bundles, &images, &run));
        }
        swap(&agent, &bundles, &images, &repository, &run, swaps)
    });
    let answered = run.answered.map(AtomicUsize::into_inner);
    if asked.is_some() {
        let seconds = started.elapsed().as_secs_f64();
        say(&format!(
            "{swaps} swaps in {seconds:.1} s, answers: {answered:?}\nafter the warm-up: {warm}\nat the end: {end}"
        ));
    }
    assert!(answered.iter().all(|&count| count > 0), "{answered:?}");
    assert!(end.resident_kib as f64 <= GROWTH * warm.resident_kib as f64, "first {warm}, then {end}");
}

/// Swaps the bundles; what the process holds after the warm-up and at the end, both under load.
fn swap(
    agent: &Agent,
    bundles: &[Bundle; 2],
    images: &[Vec<u8>],
    repository: &Path,
    run: &Run,
    swaps: usize,
) -> (Held, Held) {
    let mut client = agent.client();
    let load = format!("/v2/repository/models/{MODEL}/load");
    let warm_up = (swaps / WARM_UP_PART).max(LEAST_WARM_UP).min(swaps);
    let mut warm = None;
    for swap in 1..=swaps {
        assert!(!run.done.load(Ordering::Relaxed), "a client failed");
        let before = run.count();
        let new = swap % 2;
        bundles[new].put_into(repository);
        let loaded = client.post(&load, &[], b"").expect("an answer");
        assert_eq!(loaded.status, 200, "{}", loaded.text());
        let by = ask(&mut client, bundles, images, swap);
        assert_eq!(by, new, "a request that comes after the load is answered by the new bundle");
        wait_for("the clients are answered between two swaps", SETTLE_LIMIT, || {
            (run.count() >= before + CLIENTS || run.done.load(Ordering::Relaxed)).then_some(())
        });
        if swap == warm_up {
            warm = Some(Held::by(agent.program.id()));
        }
    }
    let warm = warm.expect("there was a swap");
    let end = wait_for("threads and files are no more than after the warm-up", SETTLE_LIMIT, || {
        let held = Held::by(agent.program.id());
        (held.threads <= warm.threads && held.files == warm.files).then_some(held)
    });
    (warm, end)
}

fn ask_until_done(mut client: Client, bundles: &[Bundle; 2], images: &[Vec<u8>], run: &Run) {
    let _ending = Ending(run);
    for turn in 0.. {
        if run.done.load(Ordering::Relaxed) {
            break;
        }
        let by = ask(&mut client, bundles, images, turn);
        run.answered[by].fetch_add(1, Ordering::Relaxed);
    }
}

/// Sends some of the images and gives the bundle that answered, after the answer was found to be its own.
fn ask(client: &mut Client, bundles: &[Bundle; 2], images: &[Vec<u8>], turn: usize) -> usize {
    let first = turn % (IMAGES - MOST_ROWS + 1);
    let rows = first..first + 1 + turn % MOST_ROWS;
    let request = digits::request(&turn.to_string(), &images[rows.clone()]);
    let response = client.post_json(&format!("/v2/models/{MODEL}/infer"), &request).expect("an answer");
    assert_eq!(response.status, 200, "{}", response.text());
    let body = response.json();
    let digest = body["parameters"]["hedge.model"].as_str().expect("a digest");
    let by = bundles.iter().position(|bundle| bundle.digest == digest);
    let by = by.unwrap_or_else(|| panic!("{digest} is neither bundle"));
    let expected = bundles[by].answers[rows].concat();
    let found: Vec<f64> = body["outputs"][0]["data"]
        .as_array()
        .map(|data| data.iter().filter_map(Value::as_f64).collect())
        .unwrap_or_default();
    assert_eq!(found.len(), expected.len(), "{body}");
    let scale = expected.iter().fold(1f64, |scale, value| scale.max(value.abs()));
    let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0f64, f64::max);
    assert!(worst <= TOLERANCE * scale, "{digest} answered {worst} beside its own answer: {body}");
    by
}

impl Bundle {
    /// Exports a bundled model; the tool says its digest and what it answers.
    fn make(folder: &Path, model: &str, images: &[Vec<u8>]) -> Self {
        let file = folder.join(format!("{model}.hedge"));
        let [input, output] = ["npy", "out"].map(|kind| folder.join(format!("{model}.{kind}")));
        let (side, count) = (SIDE as u64, images.len() as u64);
        Array { shape: vec![count, 1, side, side], data: images.concat() }.write(&input);
        let mut export = command(&binaries().hedge);
        succeeded(export.args(["zoo", "export", "digits", "--model", model, "-o"]).arg(&file));
        let mut inspect = command(&binaries().hedge);
        let described = succeeded(inspect.args(["bundle", "inspect", "--json", "-"]).arg(&file));
        let described: Value = serde_json::from_slice(&described).expect("JSON");
        let mut model_run = command(&binaries().hedge);
        model_run.args(["model", "run", "--device", "cpu"]).arg(&file).arg("--output-dir").arg(&output);
        succeeded(model_run.arg("--input").arg(format!("image={}", input.display())));
        let answers = Array::<f32>::read(&output.join("logits.npy"));
        let answers = answers.data.chunks(answers.data.len() / images.len());
        Self {
            file,
            digest: described["digest"].as_str().expect("a digest").to_owned(),
            answers: answers.map(|row| row.iter().copied().map(f64::from).collect()).collect(),
        }
    }

    /// Puts it into place whole, as an operator is told to.
    fn put_into(&self, repository: &Path) {
        let part = repository.join(format!(".{MODEL}.part"));
        std::fs::copy(&self.file, &part).expect("the bundle is copied");
        std::fs::rename(part, repository.join(format!("{MODEL}.hedge"))).expect("it is moved into place");
    }
}

impl Run {
    fn count(&self) -> usize {
        self.answered.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.done.store(true, Ordering::Relaxed);
    }
}

fn start(repository: &Path) -> Agent {
    let more = format!(
        "[repository]\npath = {repository:?}\n# Only the API swaps.\nscan_ms = 3600000\n\n\
         [offload]\n# A machine that runs other tests as well may be slow.\ndeadline_ms = 30000\n"
    );
    AgentSetup { cache: false, more, ..AgentSetup::default() }.start()
}

fn succeeded(run: &mut std::process::Command) -> Vec<u8> {
    let output = run.output().expect("hedge starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
