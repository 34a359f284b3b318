//! Who may ask: the names in Host, the origins of web pages, and API keys.
//!
//! A page of another site can make a browser send requests to this machine. Two checks stop it: the Host header must be a name of this
//! machine (a foreign name that resolves to 127.0.0.1 is DNS rebinding), and the Origin header, which browsers always send with such
//! requests, must be this server's own or one that the user has allowed. No answer allows credentials of other origins.

use super::app::App;
use super::keys::Keys;
use super::listen::HEAD_BYTES;
use super::refusal::{Refusal, Result};
use axum::extract::{Request, State};
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::IpAddr;
use std::sync::Arc;

/// What the guard checks.
pub struct Guard {
    /// The names that Host may have; `None` lets all pass.
    hosts: Option<Vec<String>>,
    origins: Vec<String>,
    keys: Keys,
}

/// Paths that need no key: they tell nothing of the models or of others' requests.
const OPEN: [&str; 3] = ["/health", "/v1/health", "/openapi.json"];

/// How a preflight answers, beside the origin.
const ALLOWED_METHODS: &str = "GET, POST";
const ALLOWED_HEADERS: &str = "authorization, content-type, x-api-key, anthropic-version, anthropic-beta";
const PREFLIGHT_SECONDS: &str = "600";

impl Guard {
    /// A guard of a server that listens at `host`, which is this machine only if `loopback`.
    pub fn new(host: &str, loopback: bool, origins: &[String], keys: &[String]) -> Guard {
        let names = ["localhost", "127.0.0.1", "::1", host];
        let hosts = loopback.then(|| names.iter().map(|name| name.to_ascii_lowercase()).collect());
        let origins = origins.iter().map(|origin| origin.trim_end_matches('/').to_ascii_lowercase()).collect();
        Guard { hosts, origins, keys: Keys::new(keys) }
    }

    /// Checks the names by which a request calls this server.
    fn check_host(&self, headers: &HeaderMap, uri: &Uri) -> Result<()> {
        let Some(hosts) = &self.hosts else { return Ok(()) };
        let mut given = headers.get_all(header::HOST).iter();
        let host = given.next().and_then(|host| host.to_str().ok());
        let known = |authority: &str| name_of(authority).is_some_and(|name| hosts.contains(&name));
        let of_uri = uri.authority().is_none_or(|authority| known(authority.as_str()));
        match host.is_some_and(known) && given.next().is_none() && of_uri {
            true => Ok(()),
            false => Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "the Host header is no name of this machine; use 127.0.0.1 or localhost, or start the server with --host",
            )
            .code("host_not_allowed")),
        }
    }

    /// The origin that the answer allows; `None` where no other page asks.
    fn check_origin(&self, headers: &HeaderMap) -> Result<Option<HeaderValue>> {
        let Some(origin) = headers.get(header::ORIGIN) else { return Ok(None) };
        let given = origin.to_str().unwrap_or_default().to_ascii_lowercase();
        let host =
            headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default().to_ascii_lowercase();
        if ["http://", "https://"].iter().any(|scheme| given.strip_prefix(scheme) == Some(&host)) {
            return Ok(None);
        }
        if self.origins.contains(&given) {
            return Ok(Some(origin.clone()));
        }
        if self.origins.iter().any(|origin| origin == "*") {
            return Ok(Some(HeaderValue::from_static("*")));
        }
        let problem = "web pages of this origin are not allowed; start the server with --cors-origin";
        Err(Refusal::new(StatusCode::FORBIDDEN, problem).code("origin_not_allowed"))
    }

    /// Checks the key of a request, in OpenAI's or in Anthropic's header.
    fn check_key(&self, headers: &HeaderMap) -> Result<()> {
        if self.keys.is_empty() {
            return Ok(());
        }
        let bearer = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
        let scheme = |value: &[u8]| value.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer "));
        let bearer = bearer.filter(|value| scheme(value)).map(|value| value[7..].trim_ascii());
        let key = bearer.or_else(|| headers.get("x-api-key").map(HeaderValue::as_bytes));
        match key {
            Some(key) if self.keys.hold(key) => Ok(()),
            Some(_) => Err(Refusal::new(StatusCode::UNAUTHORIZED, "the API key is wrong").code("invalid_api_key")),
            None => {
                let problem = "no API key; send it as \"Authorization: Bearer KEY\" or \"x-api-key: KEY\"";
                Err(Refusal::new(StatusCode::UNAUTHORIZED, problem).code("invalid_api_key"))
            }
        }
    }
}

/// The name or address of an authority, without its port and brackets, in lower case.
fn name_of(authority: &str) -> Option<String> {
    let is_port = |port: &str| port.is_empty() || port.parse::<u16>().is_ok();
    let name = match authority.strip_prefix('[') {
        Some(rest) => {
            let (name, port) = rest.split_once(']')?;
            (port.is_empty() || port.strip_prefix(':').is_some_and(is_port)).then_some(name)?
        }
        None => match authority.split_once(':') {
            Some((name, port)) => is_port(port).then_some(name)?,
            None => authority,
        },
    };
    // ::1 has many spellings.
    Some(name.parse::<IpAddr>().map_or_else(|_| name.to_ascii_lowercase(), |address| address.to_string()))
}

/// Checks the bytes of all headers: hyper bounds those that it holds while they are not complete.
fn check_size(headers: &HeaderMap) -> Result<()> {
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    match bytes > HEAD_BYTES {
        true => {
            let problem = format!("the headers have {bytes} bytes, more than {HEAD_BYTES}");
            Err(Refusal::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, problem).code("headers_too_large"))
        }
        false => Ok(()),
    }
}

/// The middleware.
pub async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let guard = &app.guard;
    let headers = request.headers();
    let checked = check_size(headers)
        .and_then(|()| guard.check_host(headers, request.uri()))
        .and_then(|()| guard.check_origin(headers));
    let allowed = match checked {
        Ok(allowed) => allowed,
        Err(refusal) => return refusal.into_response(),
    };
    let preflight = request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ORIGIN)
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let path = request.uri().path();
    let open = OPEN.contains(&path) || super::page::file(path).is_some();
    let mut response = if preflight {
        let answers: [(HeaderName, &str); 3] = [
            (header::ACCESS_CONTROL_ALLOW_METHODS, ALLOWED_METHODS),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS),
            (header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_SECONDS),
        ];
        (StatusCode::NO_CONTENT, answers).into_response()
    } else {
        match guard.check_key(request.headers()) {
            Err(refusal) if !open => refusal.into_response(),
            _ => next.run(request).await,
        }
    };
    if let Some(origin) = allowed {
        response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    }
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("origin"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn only_names_of_this_machine_are_hosts() {
        let guard = Guard::new("box.lan", true, &[], &[]);
        let uri = Uri::from_static("/");
        for good in ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]:8080", "[0:0:0:0:0:0:0:1]", "box.lan:80"] {
            assert!(guard.check_host(&headers(&[("host", good)]), &uri).is_ok(), "{good}");
        }
        for bad in [
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil:80",
            "localhost:80:80",
            "127.0.0.1:x",
            "[::1",
            "",
            "0.0.0.0",
        ] {
            assert!(guard.check_host(&headers(&[("host", bad)]), &uri).is_err(), "{bad}");
        }
        assert!(guard.check_host(&HeaderMap::new(), &uri).is_err());
        let absolute = Uri::from_static("http://evil.example/");
        assert!(guard.check_host(&headers(&[("host", "localhost")]), &absolute).is_err());
        assert!(Guard::new("0.0.0.0", false, &[], &[]).check_host(&headers(&[("host", "any")]), &uri).is_ok());
    }

    #[test]
    fn pages_of_other_origins_are_refused_unless_allowed() {
        let same = headers(&[("host", "localhost:8080"), ("origin", "http://localhost:8080")]);
        let other = headers(&[("host", "localhost:8080"), ("origin", "http://localhost:3000")]);
        let null = headers(&[("host", "localhost:8080"), ("origin", "null")]);
        let plain = Guard::new("127.0.0.1", true, &[], &[]);
        assert_eq!(plain.check_origin(&same).unwrap(), None);
        assert!(plain.check_origin(&other).is_err() && plain.check_origin(&null).is_err());
        let some = Guard::new("127.0.0.1", true, &["http://localhost:3000/".to_owned()], &[]);
        assert_eq!(some.check_origin(&other).unwrap().unwrap(), "http://localhost:3000");
        assert!(some.check_origin(&null).is_err());
        let all = Guard::new("127.0.0.1", true, &["*".to_owned()], &[]);
        assert_eq!(all.check_origin(&other).unwrap().unwrap(), "*");
    }

    #[test]
    fn a_key_comes_in_either_header() {
        let guard = Guard::new("127.0.0.1", true, &[], &["k1".to_owned()]);
        for good in [("authorization", "Bearer k1"), ("authorization", "bearer  k1"), ("x-api-key", "k1")] {
            assert!(guard.check_key(&headers(&[good])).is_ok(), "{good:?}");
        }
        for bad in
            [("authorization", "k1"), ("authorization", "Basic k1"), ("x-api-key", "k"), ("authorization", "Bearer ")]
        {
            assert!(guard.check_key(&headers(&[bad])).is_err(), "{bad:?}");
        }
        assert!(guard.check_key(&HeaderMap::new()).is_err());
    }
}
