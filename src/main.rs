//! Parses the command line, runs it, and sets the exit code: 0, 2 for a usage error,
//! and 1 for any other failure.

use std::process::ExitCode;

use clap::{Parser, error::ErrorKind};
use usher::{
    config::{Cli, Command},
    server::{self, Failure},
    telemetry,
};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::Runtime)
        .and_then(|runtime| runtime.block_on(run(cli.command())));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            match failure {
                Failure::Usage(_) => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve(config) => {
            telemetry::init(config.log_format());
            server::serve(&config).await
        }
        Command::Migrate(config) => {
            telemetry::init(config.log_format());
            server::migrate(&config).await
        }
        Command::Health(config) => server::health(&config).await,
    }
}

/// Help and version as clap shows them; an error as one line.
fn usage(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // There is nobody to tell if it cannot be printed.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        _ => {
            let text = error.to_string();
            eprintln!("{}", text.lines().next().unwrap_or("error: bad usage"));
            ExitCode::from(2)
        }
    }
}
