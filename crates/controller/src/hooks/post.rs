//! One attempt at a delivery: an HTTP POST over a connection of its own, within a time, with a bounded answer. What it
//! says when it fails names the server, never the whole address: that may hold a token.

use std::time::Duration;

use flagship_k8s_api::Hook;
use flagship_types::format_duration;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use jiff::Timestamp;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::delivery::Delivery;
use super::signature;

/// The most of an answer that is read. Nothing in it is needed but the code; more than this is an error.
const MAX_ANSWER_BYTES: usize = 64 << 10;
/// How much of the answer to a failure is shown.
const MAX_SHOWN_CHARS: usize = 200;

/// Why an attempt failed. The receiver may have acted on it, unless it was not reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PostError {
    /// The hook cannot be called as it stands.
    #[error("{0}")]
    Unusable(String),
    /// No answer in time.
    #[error("{server} did not answer within {}", format_duration(*.after))]
    Timeout { server: String, after: Duration },
    /// No connection, or it broke.
    #[error("cannot call {server}: {error}")]
    Connection { server: String, error: String },
    /// Another answer than 2xx.
    #[error("{server} answered {code}{detail}")]
    Refused { server: String, code: StatusCode, detail: String },
}

/// Makes one attempt. `key` signs it.
pub(crate) async fn post(hook: &Hook, delivery: &Delivery, key: Option<&[u8]>) -> Result<(), PostError> {
    let uri: Uri = hook.url.parse().map_err(|_| PostError::Unusable("its url is no URL".into()))?;
    let server = server(&uri);
    let attempt = send(hook, &uri, &server, delivery, key);
    match tokio::time::timeout(hook.timeout, attempt).await {
        Ok(result) => result,
        Err(_) => Err(PostError::Timeout { server, after: hook.timeout }),
    }
}

/// Scheme, host and port: path and query may hold a token.
fn server(uri: &Uri) -> String {
    let authority = uri.authority().map_or("?", http::uri::Authority::as_str);
    format!("{}://{authority}", uri.scheme_str().unwrap_or("http"))
}

async fn send(
    hook: &Hook,
    uri: &Uri,
    server: &str,
    delivery: &Delivery,
    key: Option<&[u8]>,
) -> Result<(), PostError> {
    let broken = |error: &dyn std::error::Error| PostError::Connection {
        server: server.to_owned(),
        error: causes(error),
    };
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(uri)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, concat!("flagship/", env!("CARGO_PKG_VERSION")))
        .header("flagship-event", delivery.point.as_str())
        .header("flagship-delivery", &delivery.id);
    if let Some(key) = key {
        let signature = signature::sign(key, Timestamp::now().as_second(), &delivery.body);
        request = request.header(signature::HEADER, signature);
    }
    let request = request
        .body(Full::new(delivery.body.clone()))
        .map_err(|error| PostError::Unusable(error.to_string()))?;
    let tls = tls(hook, uri).await?;
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
    // One delivery every few minutes at most: a connection is not kept.
    let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
    let answer = client.request(request).await.map_err(|error| broken(&error))?;
    let code = answer.status();
    let redirect = answer.headers().contains_key(header::LOCATION) && code.is_redirection();
    if code.is_success() {
        // Its code is its answer, whatever comes after it.
        return Ok(());
    }
    let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
    let detail = match (redirect, body) {
        (true, _) => " (redirects are not followed: write the address it leads to)".to_owned(),
        (false, Ok(body)) => shown(&body.to_bytes()),
        (false, Err(_)) => String::new(),
    };
    Err(PostError::Refused { server: server.to_owned(), code, detail })
}

/// The beginning of an answer, in one line.
fn shown(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let line: Vec<_> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect();
    match line.join(" ").chars().take(MAX_SHOWN_CHARS).collect::<String>() {
        line if line.is_empty() => line,
        line => format!(": {line}"),
    }
}

/// The certificates to believe: those of the hook, else those of the system.
async fn tls(hook: &Hook, uri: &Uri) -> Result<ClientConfig, PostError> {
    let mut roots = RootCertStore::empty();
    let is_https = uri.scheme_str() == Some("https");
    let bad = |error: String| PostError::Unusable(format!("caBundle: {error}"));
    if let (Some(pem), true) = (&hook.ca_bundle, is_https) {
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.map_err(|error| bad(error.to_string()))?;
            roots.add(certificate).map_err(|error| bad(error.to_string()))?;
        }
    } else if is_https {
        let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
        roots.add_parsable_certificates(found.map(|found| found.certs).unwrap_or_default());
    }
    if is_https && roots.is_empty() {
        let message = "this system trusts no certificates: give the hook a caBundle, or set SSL_CERT_FILE";
        return Err(PostError::Unusable(message.into()));
    }
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| PostError::Unusable(error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// The whole chain: the outermost error only says that something went wrong.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text.chars().take(MAX_SHOWN_CHARS).collect()
}

#[cfg(test)]
#[path = "post_tests.rs"]
mod tests;
