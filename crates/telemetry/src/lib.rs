//! Metrics registry, HTTP endpoints and status page.
