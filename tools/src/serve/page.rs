//! The web page: files in the binary, each with its type and a tag by which a browser knows that it has it already.

use axum::body::Body;
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

/// A file of the page.
pub struct File {
    path: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
}

/// All files. `/` is the first.
static FILES: [File; 1] =
    [File { path: "/", kind: "text/html; charset=utf-8", bytes: include_bytes!("page/index.html") }];

/// What the page may do: load from this server and nowhere else, run no script but its own files, be in no frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; \
                      connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The file at a path.
pub fn file(path: &str) -> Option<&'static File> {
    FILES.iter().find(|file| file.path == path)
}

/// The paths of all files.
pub fn paths() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|file| file.path)
}

/// The handler.
pub async fn serve(uri: Uri, headers: HeaderMap) -> Response {
    let Some(file) = file(uri.path()) else { return StatusCode::NOT_FOUND.into_response() };
    let tag = format!(
        "\"{}\"",
        Sha256::digest(file.bytes)[..12].iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    );
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let same = known.is_some_and(|known| known.split(',').any(|one| one.trim().trim_start_matches("W/") == tag));
    let (status, body) = match same {
        true => (StatusCode::NOT_MODIFIED, Body::empty()),
        false => (StatusCode::OK, Body::from(file.bytes)),
    };
    let mut response = (status, body).into_response();
    let fixed: [(HeaderName, &'static str); 4] = [
        (header::CONTENT_TYPE, file.kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::CACHE_CONTROL, "no-cache"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ];
    let headers = response.headers_mut();
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(tag) = HeaderValue::try_from(tag) {
        headers.insert(header::ETAG, tag);
    }
    response
}
