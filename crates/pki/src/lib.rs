//! The fleet's certificate authority, member certificates and their Secret manifests: makes them, writes them
//! without ever replacing a key unasked, and says what is in them. It verifies no peer and opens no sockets.

mod authority;
mod directory;
mod error;
mod files;
mod report;
mod secret;

pub use authority::{Authority, Issued, Validity};
pub use directory::{Written, add_member, init};
pub use error::PkiError;
pub use report::{CertificateReport, show};
pub use secret::SecretSettings;
