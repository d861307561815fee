//! Payload manifests: reading, planning, applying, readiness and deleting.
