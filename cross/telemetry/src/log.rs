//! The process's log: structured lines on standard error, as text for people or as JSON for machines.
//!
//! Standard output is left to what a command prints. Libraries that log through the `log` crate are included.

use std::io::{self, IsTerminal};

use serde::Deserialize;
use tracing::Subscriber;
use tracing_subscriber::{
    EnvFilter, Layer, Registry, fmt,
    fmt::MakeWriter,
    layer::SubscriberExt,
    util::{SubscriberInitExt, TryInitError},
};

/// Dependencies whose ordinary life is no concern of an operator. A directive of the user's for the same target wins.
const QUIET: &str = "wgpu=warn,wgpu_core=warn,wgpu_hal=error,naga=warn,cubecl=warn,cubecl_wgpu=warn,cubecl_runtime=warn,\
                     burn=warn,burn_fusion=warn,mqtt5=warn,rumqttc=warn,hyper=warn,sled=warn";

/// The `[log]` section of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Level (`error`, `warn`, `info`, `debug`, `trace`) or directives (`info,hedge_link=debug`). Default: `info`.
    pub level: String,
    /// `text` or `json`. Default: `text`.
    pub format: LogFormat,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Text }
    }
}

impl LogConfig {
    /// Checks the level without starting anything.
    ///
    /// # Errors
    ///
    /// [`TelemetryError::Level`].
    pub fn validate(&self) -> Result<(), TelemetryError> {
        filter(&self.level).map(drop)
    }
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people; coloured on a terminal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The log cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The level is no level and no list of directives.
    #[error(
        "log.level `{level}` is neither a level (error, warn, info, debug, trace) nor directives like `info,hedge_link=debug`"
    )]
    Level {
        /// What was given.
        level: String,
    },
    /// The process already has a log.
    #[error("the process's log is already started")]
    AlreadyStarted(#[source] TryInitError),
}

/// Starts the process's log on standard error. Once a process; a library never calls it.
///
/// # Errors
///
/// [`TelemetryError`].
pub fn init(config: &LogConfig) -> Result<(), TelemetryError> {
    let colour = io::stderr().is_terminal();
    subscriber(config, colour, io::stderr)?.try_init().map_err(TelemetryError::AlreadyStarted)
}

fn subscriber<W>(
    config: &LogConfig,
    colour: bool,
    writer: W,
) -> Result<impl Subscriber + Send + Sync + 'static, TelemetryError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = fmt::layer().with_writer(writer).with_ansi(colour && config.format == LogFormat::Text);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match config.format {
        LogFormat::Text => Box::new(lines),
        LogFormat::Json => Box::new(lines.json().flatten_event(true)),
    };
    Ok(tracing_subscriber::registry().with(lines.with_filter(filter(&config.level)?)))
}

fn filter(level: &str) -> Result<EnvFilter, TelemetryError> {
    let bad = || TelemetryError::Level { level: level.to_owned() };
    // An empty directive would silently mean "errors only".
    if level.split(',').any(|directive| directive.trim().is_empty()) {
        return Err(bad());
    }
    // A lone word that is no level would silently be taken for a module's name.
    if is_word(level) && level.parse::<tracing::level_filters::LevelFilter>().is_err() {
        return Err(bad());
    }
    EnvFilter::builder().parse(format!("{QUIET},{level}")).map_err(|_| bad())
}

fn is_word(level: &str) -> bool {
    !level.contains([',', '=', '['])
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: &str, format: LogFormat, act: impl FnOnce()) -> String {
        let captured = Captured::default();
        let writer = captured.clone();
        let config = LogConfig { level: level.into(), format };
        let subscriber = subscriber(&config, true, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, act);
        String::from_utf8(captured.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_line_of_json_carries_the_fields() {
        let line = logged("info", LogFormat::Json, || tracing::info!(device = "d1", rows = 3, "answered"));
        assert!(line.contains(r#""message":"answered","device":"d1","rows":3"#), "{line}");
        assert!(!line.contains('\u{1b}'), "JSON is never coloured: {line:?}");
    }

    #[test]
    fn a_level_hides_what_is_below_it() {
        let lines = logged("warn", LogFormat::Text, || {
            tracing::info!("hidden");
            tracing::warn!("shown");
        });
        assert!(lines.contains("shown") && !lines.contains("hidden"), "{lines}");
    }

    #[test]
    fn a_directive_raises_one_target() {
        let lines = logged("warn,hedge_link=debug", LogFormat::Text, || {
            tracing::debug!(target: "hedge_link", "shown");
            tracing::debug!(target: "hedge_wire", "hidden");
        });
        assert!(lines.contains("shown") && !lines.contains("hidden"), "{lines}");
    }

    #[test]
    fn noisy_dependencies_are_quiet_unless_named() {
        let speak = || tracing::info!(target: "wgpu_core::device", "adapter");
        assert_eq!(logged("info", LogFormat::Text, speak), "");
        assert!(logged("info,wgpu_core=info", LogFormat::Text, speak).contains("adapter"));
    }

    #[test]
    fn a_level_that_is_none_is_refused_by_name() {
        for level in ["loud", "", "info,,warn", "hedge=loud"] {
            let config = LogConfig { level: level.into(), ..LogConfig::default() };
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(&format!("`{level}`")), "{error}");
        }
        for level in ["INFO", "off", "hedge=trace,warn", "info,hedge_link[publish]=debug"] {
            let config = LogConfig { level: level.into(), ..LogConfig::default() };
            config.validate().unwrap();
        }
    }
}
