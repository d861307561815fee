//! The fleet's certificate authority, member certificates and their Secret manifests.
