//! zcpctl: parse, run, map the error to an exit code.

use std::process::ExitCode;

use zcp::cli::{self, Exit};

fn main() -> ExitCode {
    let _set_before = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return Exit::Ours.into() };
    runtime.block_on(cli::run(std::env::args_os())).into()
}
