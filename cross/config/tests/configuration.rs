//! What a person who writes a configuration sees.

use std::{collections::BTreeMap, net::SocketAddr, path::Path};

use hedge_config::{ConfigError, MAX_FILE_BYTES, Place, Secret, from_str, load};
use serde::Deserialize;

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Config {
    http: Http,
    link: Link,
    models: Vec<Model>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(default)]
struct Http {
    listen: SocketAddr,
    max_body_bytes: u32,
    tls: bool,
}

impl Default for Http {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 8000)), max_body_bytes: 1024, tls: false }
    }
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Link {
    password: Option<Secret>,
    hosts: Vec<String>,
    weights: BTreeMap<String, f64>,
}

#[derive(Debug, PartialEq, Deserialize)]
struct Model {
    name: String,
    #[serde(default)]
    threshold: Option<f32>,
    #[serde(default)]
    offload: Offload,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Offload {
    #[default]
    Auto,
    Never,
}

fn read(toml: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    from_str(toml, env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

fn refusal(toml: &str, env: &[(&str, &str)]) -> ConfigError {
    read(toml, env).expect_err("the configuration is bad")
}

#[test]
fn an_empty_file_gives_the_defaults() {
    assert_eq!(read("", &[]).unwrap(), Config::default());
}

#[test]
fn each_type_of_toml_arrives() {
    let config = read(
        r#"
        [http]
        listen = "0.0.0.0:9000"
        max_body_bytes = 1_000
        tls = true
        [link]
        hosts = ["a", "b"]
        weights = { a = 1, b = 0.5 }
        [[models]]
        name = "digits"
        threshold = 1
        offload = "never"
        "#,
        &[],
    )
    .unwrap();
    assert_eq!(config.http.max_body_bytes, 1000);
    assert!(config.http.tls);
    assert_eq!(config.link.hosts, ["a", "b"]);
    assert_eq!(config.link.weights, BTreeMap::from([("a".into(), 1.0), ("b".into(), 0.5)]));
    let model = Model { name: "digits".into(), threshold: Some(1.0), offload: Offload::Never };
    assert_eq!(config.models, [model]);
}

#[test]
fn an_unknown_key_names_itself_its_line_and_the_nearest_known_one() {
    let error = refusal("[http]\n\nlistn = \"x\"\n", &[]);
    assert_eq!(error.to_string(), "unknown key `http.listn` in line 3; the nearest known one is `http.listen`");
    assert_eq!(error.hint().unwrap(), "did you mean `http.listen`?");
}

#[test]
fn an_unknown_key_like_no_other_lists_the_known_ones() {
    let error = refusal("[http]\nzzz = 1\n", &[]);
    assert_eq!(error.to_string(), "unknown key `http.zzz` in line 2");
    assert_eq!(error.hint().unwrap(), "known keys here: listen, max_body_bytes, tls");
}

#[test]
fn an_unknown_section_is_an_unknown_key() {
    let error = refusal("[htp]\nlisten = 1\n", &[]);
    assert_eq!(error.to_string(), "unknown key `htp` in line 1; the nearest known one is `http`");
}

#[test]
fn an_unknown_key_of_a_list_element_names_the_element() {
    let error = refusal("[[models]]\nname = \"a\"\n[[models]]\nname = \"b\"\ntreshold = 1\n", &[]);
    assert!(error.to_string().starts_with("unknown key `models[1].treshold` in line 5"), "{error}");
}

#[test]
fn a_wrong_type_names_the_key_and_what_it_must_be() {
    let error = refusal("[http]\nmax_body_bytes = \"big\"\n", &[]);
    let expected = "`http.max_body_bytes` in line 2 must be a whole number, not negative (u32), found a text";
    assert_eq!(error.to_string(), expected);
    let error = refusal("http = 3\n", &[]);
    assert_eq!(error.to_string(), "`http` in line 1 must be a table, found a whole number");
    let error = refusal("[http]\nmax_body_bytes = -1\n", &[]);
    assert!(error.to_string().ends_with("found -1"), "{error}");
}

#[test]
fn an_unacceptable_value_names_the_key() {
    let error = refusal("[http]\nlisten = \"nowhere\"\n", &[]);
    assert!(error.to_string().starts_with("`http.listen` in line 2: invalid socket address"), "{error}");
}

#[test]
fn an_unknown_choice_lists_the_choices() {
    let error = refusal("[[models]]\nname = \"a\"\noffload = \"nevr\"\n", &[]);
    assert_eq!(
        error.to_string(),
        "`models[0].offload` in line 3 must be one of auto, never; the nearest known one is `never`"
    );
}

#[test]
fn a_missing_key_is_named() {
    let error = refusal("[[models]]\nthreshold = 0.5\n", &[]);
    assert_eq!(error.to_string(), "`models[0].name` is missing in line 1");
}

#[test]
fn text_that_is_no_toml_names_the_line() {
    let error = refusal("[http]\nlisten = 0.0.0.0:1\n", &[]);
    assert!(error.to_string().starts_with("not TOML in line 2: "), "{error}");
}

#[test]
fn a_variable_overrides_the_file_and_is_read_as_the_key_wants_it() {
    let env = [
        ("HEDGE_HTTP__LISTEN", "127.0.0.1:1"),
        ("HEDGE_HTTP__MAX_BODY_BYTES", "77"),
        ("HEDGE_HTTP__TLS", "true"),
        ("HEDGE_LINK__PASSWORD", "12345"),
        ("HEDGE_LINK__HOSTS", r#"["x", "y"]"#),
        ("HEDGE_LINK__WEIGHTS__C", "2"),
    ];
    let config = read("[http]\nmax_body_bytes = 1\n[link]\nhosts = [\"a\"]\nweights = {a = 1}\n", &env).unwrap();
    assert_eq!(config.http.listen.port(), 1);
    assert_eq!(config.http.max_body_bytes, 77);
    assert!(config.http.tls);
    assert_eq!(config.link.password.unwrap().expose(), "12345");
    assert_eq!(config.link.hosts, ["x", "y"]);
    assert_eq!(config.link.weights, BTreeMap::from([("a".into(), 1.0), ("c".into(), 2.0)]));
}

#[test]
fn a_variable_reaches_into_a_list_and_may_append_to_it() {
    let env = [
        ("HEDGE_MODELS__0__THRESHOLD", "0.25"),
        ("HEDGE_MODELS__1__NAME", "second"),
        ("HEDGE_MODELS__1__OFFLOAD", "never"),
    ];
    let config = read("[[models]]\nname = \"first\"\n", &env).unwrap();
    assert_eq!(config.models[0].threshold, Some(0.25));
    assert_eq!(config.models[1], Model { name: "second".into(), threshold: None, offload: Offload::Never });
    let config = read("", &[("HEDGE_MODELS__0__NAME", "only")]).unwrap();
    assert_eq!(config.models[0].name, "only");
}

#[test]
fn a_variable_at_fault_is_named() {
    let error = refusal("", &[("HEDGE_HTTP__LISTN", "x")]);
    assert!(
        error.to_string().starts_with("unknown key `http.listn` in the environment variable HEDGE_HTTP__LISTN"),
        "{error}"
    );
    let error = refusal("", &[("HEDGE_HTTP__MAX_BODY_BYTES", "many")]);
    assert!(error.to_string().contains("HEDGE_HTTP__MAX_BODY_BYTES must be a whole number"), "{error}");
    let error = refusal("", &[("HEDGE_MODELS__5__NAME", "x")]);
    assert!(error.to_string().contains("HEDGE_MODELS__5__NAME overrides nothing"), "{error}");
    let error = refusal("[http]\ntls = true\n", &[("HEDGE_HTTP__TLS__DEEP", "x")]);
    assert!(error.to_string().contains("not a section"), "{error}");
    let error = refusal("", &[("HEDGE_HTTP____TLS", "x")]);
    assert!(error.to_string().contains("is empty"), "{error}");
}

#[test]
fn a_variable_without_a_double_underscore_or_of_another_prefix_is_not_ours() {
    let env = [("HEDGE_LOG", "x"), ("HEDGEROW_A__B", "x"), ("PATH", "x"), ("HEDGE", "x"), ("HEDGE__TLS", "x")];
    assert_eq!(read("", &env).unwrap(), Config::default());
}

#[test]
fn a_secret_reaches_no_error_and_no_debug_output() {
    let error = refusal("[link]\npassword = 987654321\n", &[]);
    assert!(!format!("{error} {error:?}").contains("987654321"), "{error}");
    let config = read("[link]\npassword = \"hunter2\"\n", &[]).unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
    let error = refusal("[http]\nmax_body_bytes = \"hunter2\"\n", &[("HEDGE_HTTP__TLS", "hunter2")]);
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
}

#[test]
fn a_number_beyond_64_bits_is_refused() {
    let error = refusal("[http]\nmax_body_bytes = 99999999999999999999\n", &[]);
    assert!(error.to_string().contains("line 2"), "{error}");
}

/// A file that is gone when the test ends.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn with(name: &str, bytes: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("hedge-config-{}-{name}.toml", std::process::id()));
        std::fs::write(&path, bytes).expect("the temporary folder is writable");
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_file_is_named_in_its_errors() {
    let file = Scratch::with("unknown", b"[http]\nlistn = 1\n");
    let error = load::<Config>(&file.0, "HEDGE_CONFIG_TEST").unwrap_err();
    let ConfigError::UnknownKey { place: Place::Line { file: Some(path), line: 2 }, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(path, &file.0);
    assert_eq!(load::<Config>(&Scratch::with("good", b"").0, "HEDGE_CONFIG_TEST").unwrap(), Config::default());
}

#[test]
fn a_file_that_cannot_be_used_is_a_typed_error() {
    let absent = load::<Config>(Path::new("/nonexistent/hedge.toml"), "HEDGE_CONFIG_TEST").unwrap_err();
    assert!(matches!(absent, ConfigError::Unreadable { .. }), "{absent}");
    let folder = load::<Config>(&std::env::temp_dir(), "HEDGE_CONFIG_TEST").unwrap_err();
    assert!(matches!(folder, ConfigError::Unreadable { .. }), "{folder}");
    let large = Scratch::with("large", &vec![b'\n'; MAX_FILE_BYTES as usize + 1]);
    let large = load::<Config>(&large.0, "HEDGE_CONFIG_TEST").unwrap_err();
    assert!(matches!(large, ConfigError::TooLarge { limit: MAX_FILE_BYTES, .. }), "{large}");
    let binary = load::<Config>(&Scratch::with("binary", b"a = \"\xff\"").0, "HEDGE_CONFIG_TEST").unwrap_err();
    assert!(matches!(binary, ConfigError::NotUtf8 { offset: 5, .. }), "{binary}");
}

#[test]
fn no_text_makes_the_reader_panic() {
    let source = b"[http]\nlisten = \"127.0.0.1:1\"\n[[models]]\nname = 'x' # \"\n[link]\nweights={a=1.5e3,b=[true]}\n";
    for cut in 0..source.len() {
        for byte in [b'[', b'"', b'=', 0, b'\n', 0x7f] {
            let mut text = source.to_vec();
            text[cut] = byte;
            let text = String::from_utf8(text).unwrap();
            let _ = read(&text, &[]);
            let _ = read(&text[..cut], &[("HEDGE_LINK__WEIGHTS", &text[cut..])]);
        }
    }
}
