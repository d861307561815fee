//! Tests on real control planes, processes and network namespaces.
