//! The `synapse-rust` program: see [`synapse_rust::cli`].

fn main() -> std::process::ExitCode {
    synapse_rust::cli::main()
}
