//! Watches MultiClusters, owns their status, finalizer and Events, and carries out promotion and demotion.
