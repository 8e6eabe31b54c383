//! The versions of the services' APIs that this release speaks. Each request says which one it is meant in, and a service
//! that does not know it refuses the request.

use azure_security_keyvault_secrets::SecretClientOptions;
use azure_storage_queue::QueueClientOptions;

use crate::storage_queues::Endpoint;

/// Key Vault: `api-version` of each request.
pub fn key_vault() -> String {
    SecretClientOptions::default().api_version
}

/// Storage: `x-ms-version` of each request.
pub fn storage(endpoint: &Endpoint) -> String {
    endpoint.api_version.clone().unwrap_or_else(|| QueueClientOptions::default().version)
}

/// Microsoft Graph: the beginning of each path.
pub const GRAPH: &str = "v1.0";

/// Logs Ingestion: `api-version` of each request.
pub const LOGS_INGESTION: &str = "2023-01-01";

/// Service Bus: the protocol that a connection begins with.
pub const SERVICE_BUS: &str = "AMQP 1.0";
