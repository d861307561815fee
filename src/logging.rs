//! Logs of the daemon.

use flagship_cli::LogFormat;
use tracing_subscriber::EnvFilter;

/// Sets up logging to standard error.
pub(crate) fn init(format: LogFormat, level: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(level).map_err(|error| {
        format!("--log-level {level:?}: {error}; expected a level such as info, or directives such as info,flagship_node=debug")
    })?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let set = match format {
        LogFormat::Text => {
            subscriber.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init()
        }
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
    };
    set.map_err(|error| error.to_string())
}
