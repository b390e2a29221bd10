//! Logs, on standard output. No line holds personal data, at any level.

use std::io::{IsTerminal, stdout};

use tracing::{Level, Metadata, level_filters::LevelFilter};
use tracing_subscriber::{EnvFilter, Layer, filter::filter_fn, layer::SubscriberExt, registry};

use crate::config::LogFormat;

/// Starts logging: usher's own events by `RUST_LOG`, by default at INFO; and those of
/// libraries at WARN at most, for below that they may show what passes through them.
pub fn init(format: Option<LogFormat>) {
    let format = format.unwrap_or(if stdout().is_terminal() {
        LogFormat::Text
    } else {
        LogFormat::Json
    });
    let lines = tracing_subscriber::fmt::layer();
    let lines = match format {
        LogFormat::Text => lines.with_ansi(stdout().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let by_environment = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .from_env_lossy();
    let lines = lines
        .with_filter(filter_fn(is_shown))
        .with_filter(by_environment);
    // It fails only if logging was started before.
    let _ = tracing::subscriber::set_global_default(registry().with(lines));
}

fn is_shown(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    target == "usher" || target.starts_with("usher::") || *metadata.level() <= Level::WARN
}
