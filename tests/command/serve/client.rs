//! A server in a process of its own, and a client that speaks HTTP byte by byte: what no library would send must be sendable.

use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// The longest that anything may take: a hang is a failure, and no more is measured here.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The model of the repository.
pub fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny-rustdoc")
}

/// A running server; killed when it is dropped.
pub struct Server {
    child: Child,
    pub address: String,
    said: Arc<Mutex<String>>,
}

/// An answer.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The data of its events; the last of OpenAI's is no JSON.
    pub fn events(&self) -> Vec<Value> {
        assert!(self.header("content-type").unwrap().starts_with("text/event-stream"), "{self:?}");
        let data = self.text().lines().filter_map(|line| line.strip_prefix("data: "));
        data.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).unwrap()).collect()
    }
}

impl Server {
    /// Starts with these arguments behind those of every test, and waits until it listens.
    pub fn start(args: &[&str]) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
        command.args(["serve", "--port", "0", "--threads", "2"]).args(args).env("STRATA_CACHE_DISK", "0");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let (mut line, mut before) = (String::new(), String::new());
        while !line.contains("listening on http://") {
            before.push_str(&line);
            line.clear();
            assert_ne!(lines.read_line(&mut line).unwrap(), 0, "the server has ended: {before}");
        }
        let address = line.trim().rsplit("http://").next().unwrap().to_owned();
        let said = Arc::new(Mutex::new(before));
        let to = said.clone();
        thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                to.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        Server { child, address, said }
    }

    /// Starts with the model of the repository.
    pub fn with_model(args: &[&str]) -> Server {
        let model = model();
        Server::start(&[&["-m", model.to_str().unwrap()], args].concat())
    }

    /// What it said on stderr.
    pub fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends bytes as they are and reads one answer.
    pub fn raw(&self, bytes: &[u8]) -> Response {
        let mut stream = self.connect();
        // The server may answer and close before it has read all.
        let _ = stream.write_all(bytes);
        read(&mut BufReader::new(stream), bytes.starts_with(b"HEAD"))
    }

    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        self.raw(&self.request(method, path, headers, body))
    }

    /// The bytes of a request; its headers come before those that every request has, unless they are among them.
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        let length = body.len().to_string();
        let usual =
            [("host", self.address.as_str()), ("content-type", "application/json"), ("content-length", &length)];
        let missing = usual.iter().filter(|(name, _)| !headers.iter().any(|(other, _)| other == name));
        for (name, value) in headers.iter().chain(missing) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        [head.as_bytes(), body].concat()
    }

    pub fn get(&self, path: &str) -> Response {
        self.send("GET", path, &[], b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.send("POST", path, &[], body.to_string().as_bytes())
    }

    /// The JSON of an answer that must be one.
    pub fn ok(&self, path: &str, body: &Value) -> Value {
        let response = self.post(path, body);
        assert_eq!(response.status, 200, "{path} {body}: {}", response.text());
        response.json()
    }

    /// Waits until something is so.
    pub fn wait(&self, what: &str, is: impl Fn(&Server) -> bool) {
        let begin = Instant::now();
        while !is(self) {
            assert!(begin.elapsed() < PATIENCE, "never: {what}; the server said {}", self.said());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The value of a metric.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").text().to_owned();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Asks it to stop, as Ctrl-C does.
    pub fn terminate(&self) {
        let sent = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    pub fn end(mut self) -> (ExitStatus, String) {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status, self.said());
            }
            assert!(begin.elapsed() < PATIENCE, "the server does not end: {}", self.said());
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // No test is a reason for a panic.
        if !thread::panicking() {
            assert!(!self.said().contains("panicked"), "{}", self.said());
        }
    }
}

/// Reads one answer: as long as its length says, in chunks, or to the end.
pub fn read(from: &mut impl BufRead, head_only: bool) -> Response {
    let mut line = String::new();
    from.read_line(&mut line).unwrap();
    let status =
        line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no status: {line:?}"));
    let mut headers = Vec::new();
    loop {
        line.clear();
        from.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let mut response = Response { status, headers, body: Vec::new() };
    if head_only || status == 204 || status == 304 {
        return response;
    }
    if response.header("transfer-encoding") == Some("chunked") {
        while let Some(chunk) = chunk(from) {
            response.body.extend(chunk);
        }
    } else if let Some(length) = response.header("content-length").map(|length| length.parse().unwrap()) {
        response.body.resize(length, 0);
        from.read_exact(&mut response.body).unwrap();
    } else {
        from.read_to_end(&mut response.body).unwrap();
    }
    response
}

/// The next chunk of a body; `None` after the last.
pub fn chunk(from: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut line = String::new();
    from.read_line(&mut line).unwrap();
    let length = usize::from_str_radix(line.trim(), 16).unwrap_or_else(|_| panic!("no chunk: {line:?}"));
    let mut chunk = vec![0; length + 2];
    from.read_exact(&mut chunk).unwrap();
    chunk.truncate(length);
    (length > 0).then_some(chunk)
}
