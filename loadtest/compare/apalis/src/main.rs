//! The program; all of it is in the library.

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    keyturn_compare_apalis::run()
}
