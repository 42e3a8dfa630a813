//! The `synapse-rust` program: see [`synapse_rust::cli`].

/// Gives the system back what is not needed any more, some seconds later. glibc's allocator kept four fifths of what ten
/// thousand rooms had taken after they had left memory.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    synapse_rust::cli::main()
}
