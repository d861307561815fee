//! A hook's server for tests: real HTTP over a real socket, with or without TLS.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use flagship_k8s_api::Hook;
use http::{HeaderMap, Response, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::tenure::AbortOnDrop;

/// What came.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Received {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }
}

/// How to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// With this code and a short text.
    Code(u16),
    /// With a redirect to itself.
    Elsewhere,
    /// Not at all.
    Never,
    /// With this code and a body without end.
    Endless(u16),
}

#[derive(Clone)]
struct State {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    received: watch::Sender<Vec<Received>>,
}

pub(crate) struct Receiver {
    pub(crate) url: String,
    /// The authority that signed its certificate.
    pub(crate) ca: Option<String>,
    state: State,
    _serve: AbortOnDrop,
}

impl Receiver {
    pub(crate) async fn start() -> Self {
        Self::over(None).await
    }

    pub(crate) async fn start_tls() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, key).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf =
            CertificateParams::new(vec!["localhost".into()]).unwrap().signed_by(&key, &issuer).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key.serialize_der().try_into().unwrap())
            .unwrap();
        Self::over(Some((TlsAcceptor::from(Arc::new(config)), issuer.pem()))).await
    }

    async fn over(tls: Option<(TlsAcceptor, String)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://localhost:{port}/hook?token=hunter2");
        let (acceptor, ca) = tls.unzip();
        let state = State { answers: Arc::default(), received: watch::Sender::new(Vec::new()) };
        let serving = state.clone();
        let serve = async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, state) = (acceptor.clone(), serving.clone());
                tokio::spawn(async move {
                    match acceptor {
                        None => talk(stream, state).await,
                        Some(acceptor) => {
                            // Who does not believe the certificate closes.
                            if let Ok(stream) = acceptor.accept(stream).await {
                                talk(stream, state).await;
                            }
                        }
                    }
                });
            }
        };
        Self { url, ca, state, _serve: AbortOnDrop(tokio::spawn(serve)) }
    }

    /// What to answer next, one after the other; then 200.
    pub(crate) fn answers(&self, answers: impl IntoIterator<Item = Answer>) {
        self.state.answers.lock().unwrap().extend(answers);
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.state.received.borrow().clone()
    }

    /// The events received so far.
    pub(crate) fn events(&self) -> Vec<String> {
        self.received().iter().map(|one| one.json()["event"].as_str().unwrap().to_owned()).collect()
    }

    /// Until so many came.
    pub(crate) async fn wait(&self, count: usize) -> Vec<Received> {
        let mut received = self.state.received.subscribe();
        let wait = received.wait_for(|all| all.len() >= count);
        let patience = std::time::Duration::from_secs(15);
        tokio::time::timeout(patience, wait).await.expect("as many deliveries").unwrap().clone()
    }

    pub(crate) fn hook(&self) -> Hook {
        Hook {
            url: self.url.clone(),
            timeout: std::time::Duration::from_secs(5),
            retries: 0,
            must_succeed: true,
            secret: None,
            ca_bundle: self.ca.clone(),
        }
    }
}

async fn talk(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, state: State) {
    let service = service_fn(move |request| answer(request, state.clone()));
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

type Body = http_body_util::combinators::BoxBody<Bytes, Infallible>;

async fn answer(request: http::Request<Incoming>, state: State) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let (method, path) = (parts.method.to_string(), parts.uri.to_string());
    let next = state.answers.lock().unwrap().pop_front().unwrap_or(Answer::Code(200));
    state.received.send_modify(|all| all.push(Received { method, path, headers: parts.headers, body }));
    let text = |text: &'static str| Full::new(Bytes::from(text)).boxed();
    let response = match next {
        Answer::Code(code) => Response::builder().status(code).body(text("the node\n is still  up")),
        Answer::Elsewhere => Response::builder().status(307).header(header::LOCATION, "/hook").body(text("")),
        Answer::Never => std::future::pending().await,
        Answer::Endless(code) => {
            let frames = futures::stream::repeat_with(|| {
                Ok::<_, Infallible>(hyper::body::Frame::data(Bytes::from_static(&[b'x'; 4096])))
            });
            Response::builder().status(code).body(http_body_util::StreamBody::new(frames).boxed())
        }
    };
    Ok(response.unwrap())
}
