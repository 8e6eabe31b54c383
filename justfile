# The commands of every day; what each does, ./test and CONTRIBUTING.md say.

# What there is.
default:
    @just --list --unsorted

# Every check, or those named: `just test fmt clippy`.
test *steps:
    ./test {{ steps }}

# Formats the code.
fmt:
    cargo fmt --all

# Format and lints.
lint:
    ./test fmt clippy

# Runs all roles and a simulated fleet, with accidents. Ends when every device has settled twice.
demo devices="25":
    cargo run --release -- up --demo {{ devices }} --until-settled

# Measures what a message costs at ten rows and at a million; look at the ratios.
growth:
    cargo bench -p keyturn-embedded --bench growth

# Loads a deployment on this machine with simulated devices: `just load steady`, see loadtest/scenarios.
load scenario *options:
    cargo build --release --workspace --bins
    target/release/keyturn-loadtest run loadtest/scenarios/{{ scenario }}.toml {{ options }}

# Writes schemas and examples anew, after a change of the wire contract on purpose.
bless:
    KEYTURN_BLESS=1 cargo test -p keyturn-schemas
