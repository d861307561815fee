//! Links between members: gRPC streams over mutual TLS, identities, certificate reload, back-pressure.
