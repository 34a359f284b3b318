//! `strata serve`, the real command over a real socket: the shapes of its answers, the equality of its texts with those of `strata run`,
//! and what it does with requests that are wrong, hostile, slow or given up.
#![cfg(target_os = "linux")]

#[path = "serve/client.rs"]
mod client;

use client::{Server, chunk, model, read};
use serde_json::{Value, json};
use std::io::{BufReader, Read, Write};
use std::process::Command;
use std::thread;

const CHAT: &str = "/v1/chat/completions";

fn user(text: &str) -> Value {
    json!([{"role": "user", "content": text}])
}

/// What `strata run` continues a prompt with.
fn run(prompt: &str, tokens: usize, seed: u64) -> String {
    let model = model();
    let args = ["run", "-m", model.to_str().unwrap(), "-p", prompt, "--json", "--threads", "2"];
    let (tokens, seed) = (tokens.to_string(), seed.to_string());
    let output = Command::new(env!("CARGO_BIN_EXE_strata"))
        .args(args)
        .args(["-n", &tokens, "-s", &seed])
        .env("STRATA_CACHE_DISK", "0")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    json["text"].as_str().unwrap().to_owned()
}

#[test]
fn an_answer_is_that_of_run_alone_and_beside_others() {
    let server = Server::with_model(&["--slots", "3"]);
    let prompts = ["The iterator", "A `Vec` is", "Returns the number of", "This function", "The iterator yields"];
    let expected: Vec<String> = prompts.iter().enumerate().map(|(i, prompt)| run(prompt, 24, i as u64)).collect();
    let ask = |i: usize| {
        let answer = server.ok("/v1/completions", &json!({"prompt": prompts[i], "max_tokens": 24, "seed": i}));
        answer["choices"][0]["text"].as_str().unwrap().to_owned()
    };
    for (i, text) in expected.iter().enumerate() {
        assert_eq!(ask(i), *text, "alone");
    }
    thread::scope(|scope| {
        let asked: Vec<_> = (0..20).map(|i| scope.spawn(move || (i % prompts.len(), ask(i % prompts.len())))).collect();
        for thread in asked {
            let (i, text) = thread.join().unwrap();
            assert_eq!(text, expected[i], "beside others");
        }
    });
    assert_eq!(server.metric("strata_cancelled_total"), 0.0);
}

#[test]
fn answers_have_the_shapes_of_their_apis() {
    let server = Server::with_model(&[]);
    let models = server.get("/v1/models").json();
    assert_eq!(models["data"][0]["id"], "tiny-rustdoc");
    assert_eq!(models["data"][0]["status"]["value"], "unloaded");
    assert_eq!(server.get("/v1/models/tiny-rustdoc").json()["object"], "model");
    assert_eq!(server.get("/health").json(), json!({"status": "ok"}));

    let chat = server.ok(CHAT, &json!({"model": "tiny-rustdoc", "messages": user("Hi"), "max_tokens": 5, "n": 2, "logprobs": true, "top_logprobs": 3}));
    assert_eq!((&chat["object"], chat["choices"].as_array().unwrap().len()), (&json!("chat.completion"), 2));
    assert_eq!(chat["choices"][0]["message"]["role"], "assistant");
    let logprobs = chat["choices"][1]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(logprobs[0]["top_logprobs"].as_array().unwrap().len(), 3);
    assert!(logprobs[0]["logprob"].as_f64().unwrap() <= 0.0 && logprobs[0]["bytes"].is_array());
    let usage = &chat["usage"];
    assert_eq!(
        usage["total_tokens"].as_u64(),
        Some(usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap())
    );
    assert!(chat["timings"]["predicted_n"].as_u64().unwrap() <= 5);

    let completion =
        server.ok("/v1/completions", &json!({"prompt": ["The", "A"], "max_tokens": 3, "logprobs": 2, "echo": true}));
    assert!(completion["choices"][1]["text"].as_str().unwrap().starts_with('A'));
    assert_eq!(completion["choices"][0]["logprobs"]["tokens"].as_array().unwrap().len(), 3);

    let embeddings = server.ok("/v1/embeddings", &json!({"input": ["a vector", "a vector", "the weather"]}));
    let vector = |i: usize| -> Vec<f64> { serde_json::from_value(embeddings["data"][i]["embedding"].clone()).unwrap() };
    assert!((vector(0).iter().map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-5);
    assert_eq!(vector(0), vector(1));
    assert_ne!(vector(0), vector(2));

    let message = server.ok("/v1/messages", &json!({"model": "tiny-rustdoc", "messages": user("Hi"), "max_tokens": 4}));
    assert_eq!((&message["type"], &message["content"][0]["type"]), (&json!("message"), &json!("text")));
    let counted = server.ok("/v1/messages/count_tokens", &json!({"messages": user("Hi")}));
    let used = message["usage"]["input_tokens"].as_u64().unwrap()
        + message["usage"]["cache_read_input_tokens"].as_u64().unwrap();
    assert_eq!(counted["input_tokens"].as_u64(), Some(used));

    let response = server.ok("/v1/responses", &json!({"input": "Hi", "max_output_tokens": 4}));
    assert_eq!((&response["object"], &response["output"][0]["type"]), (&json!("response"), &json!("message")));

    let tokens = server.ok("/tokenize", &json!({"content": "The iterator", "with_pieces": true}))["tokens"].clone();
    let pieces: String = tokens.as_array().unwrap().iter().map(|token| token["piece"].as_str().unwrap()).collect();
    assert_eq!(pieces, "The iterator");
    let ids: Vec<&Value> = tokens.as_array().unwrap().iter().map(|token| &token["id"]).collect();
    assert_eq!(server.ok("/detokenize", &json!({"tokens": ids}))["content"], "The iterator");
    let prompt = server.ok("/apply-template", &json!({"messages": user(" Hi ")}))["prompt"].clone();
    assert!(prompt.as_str().unwrap().contains("<|end_header_id|>\n\nHi<|eot_id|>"), "{prompt}");
    assert_eq!(server.get("/props").json()["properties"]["n_ctx"], 4096);
    assert_eq!(server.get("/slots").json().as_array().unwrap().len(), 4);
}

#[test]
fn a_stream_has_what_the_whole_answer_has() {
    let server = Server::with_model(&[]);
    let with = |body: &Value, more: Value| {
        let mut body = body.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let body = json!({"messages": user("The iterator"), "max_tokens": 30, "seed": 3, "n": 2});
    let whole = server.ok(CHAT, &body);
    let stream = server.post(CHAT, &with(&body, json!({"stream": true, "stream_options": {"include_usage": true}})));
    assert!(stream.text().ends_with("data: [DONE]\n\n"));
    for index in 0..2 {
        let of_choice = |event: &Value| {
            event["choices"].as_array().unwrap().iter().find(|choice| choice["index"] == index).cloned()
        };
        let choices: Vec<Value> = stream.events().iter().filter_map(of_choice).collect();
        assert_eq!(choices[0]["delta"]["role"], "assistant");
        let text: String = choices.iter().filter_map(|choice| choice["delta"]["content"].as_str()).collect();
        assert_eq!(text, whole["choices"][index]["message"]["content"].as_str().unwrap());
        assert_eq!(choices.last().unwrap()["finish_reason"], whole["choices"][index]["finish_reason"]);
    }
    assert_eq!(stream.events().last().unwrap()["usage"]["completion_tokens"], whole["usage"]["completion_tokens"]);

    let body = json!({"messages": user("The iterator"), "max_tokens": 30, "seed": 3});
    let whole = server.ok("/v1/messages", &body);
    let stream = server.post("/v1/messages", &with(&body, json!({"stream": true})));
    let events = stream.events();
    let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds[..3], ["message_start", "ping", "content_block_start"]);
    assert_eq!(kinds[kinds.len() - 3..], ["content_block_stop", "message_delta", "message_stop"]);
    let text: String = events.iter().filter_map(|event| event["delta"]["text"].as_str()).collect();
    assert_eq!(text, whole["content"][0]["text"].as_str().unwrap());

    let body = json!({"input": "The iterator", "max_output_tokens": 30, "seed": 3});
    let whole = server.ok("/v1/responses", &body);
    let events = server.post("/v1/responses", &with(&body, json!({"stream": true}))).events();
    assert!(events.iter().enumerate().all(|(i, event)| event["sequence_number"] == i));
    let text: String = events.iter().filter_map(|event| event["delta"].as_str()).collect();
    assert_eq!(text, whole["output"][0]["content"][0]["text"].as_str().unwrap());
    assert_eq!(events.last().unwrap()["response"]["status"], whole["status"]);

    // A text that ends the answer is no part of it.
    let text = server.ok("/v1/completions", &json!({"prompt": "The iterator", "max_tokens": 30, "seed": 3}))["choices"]
        [0]["text"]
        .clone();
    let text = text.as_str().unwrap();
    let stop = text.split(' ').nth(3).unwrap();
    let stopped =
        server.ok("/v1/completions", &json!({"prompt": "The iterator", "max_tokens": 30, "seed": 3, "stop": [stop]}));
    assert_eq!(stopped["choices"][0]["text"], text[..text.find(stop).unwrap()]);
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
}

#[test]
fn an_answer_has_the_form_that_was_asked_for() {
    let server = Server::with_model(&[]);
    let schema = json!({"type": "object", "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["x"], "additionalProperties": false});
    for form in [
        json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}),
        json!({"json_schema": schema}),
        json!({"grammar": "root ::= \"{\\\"x\\\": \" [0-9] \"}\""}),
    ] {
        let mut body = json!({"messages": user("A number"), "max_tokens": 400, "seed": 1});
        body.as_object_mut().unwrap().extend(form.as_object().unwrap().clone());
        let answer = server.ok(CHAT, &body);
        let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
        let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{form}: {text}: {error}"));
        assert!(value["x"].as_u64().is_some_and(|x| x <= 9), "{text}");
    }
    let tool = json!({"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}, "additionalProperties": false}}});
    let body = json!({"messages": user("What time is it?"), "tools": [tool], "tool_choice": "required", "parallel_tool_calls": false, "max_tokens": 200, "seed": 1});
    let answer = server.ok(CHAT, &body);
    let call = &answer["choices"][0]["message"]["tool_calls"][0];
    assert_eq!(
        (&call["function"]["name"], &answer["choices"][0]["finish_reason"]),
        (&json!("now"), &json!("tool_calls")),
        "{answer}"
    );
    assert!(serde_json::from_str::<Value>(call["function"]["arguments"].as_str().unwrap()).unwrap().is_object());
}

#[test]
fn wrong_requests_are_refused_with_the_name_of_the_field() {
    let server = Server::with_model(&[]);
    let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
    for (path, body, param) in [
        (CHAT, json!({"messages": user("x"), "model": "none"}), "model"),
        (CHAT, json!({"messages": user("x"), "model": 3}), "model"),
        (CHAT, json!({}), "messages"),
        (CHAT, json!({"messages": user("x"), "n": -1}), "n"),
        (CHAT, json!({"messages": user("x"), "n": 1_000_000}), "n"),
        (CHAT, json!({"messages": user("x"), "max_tokens": -5}), "max_tokens"),
        (CHAT, json!({"messages": user("x"), "temperature": "hot"}), "temperature"),
        (CHAT, json!({"messages": user("x"), "dry_allowed_length": i64::MIN}), "dry_allowed_length"),
        (CHAT, json!({"messages": user("x"), "top_k": u64::MAX}), "top_k"),
        (CHAT, json!({"messages": user("x"), "top_logprobs": 3}), "top_logprobs"),
        (CHAT, json!({"messages": user("x"), "stream": "yes"}), "stream"),
        ("/v1/completions", json!({"prompt": 7}), "prompt"),
        ("/v1/embeddings", json!({"input": []}), "input"),
        ("/v1/responses", json!({"input": "x", "previous_response_id": "r"}), "previous_response_id"),
        ("/tokenize", json!({}), "content"),
        ("/detokenize", json!({"tokens": [-1]}), "tokens"),
    ] {
        let response = server.post(path, &body);
        assert!(matches!(response.status, 400 | 404), "{path} {body}: {}", response.status);
        assert_eq!(response.json()["error"]["param"], param, "{path} {body}");
    }
    for (body, code) in [
        (json!({"messages": user("x"), "grammar": "root ::= ("}), "invalid_grammar"),
        (json!({"messages": user("x"), "grammar": "root ::= root"}), "invalid_grammar"),
        (json!({"messages": user("x"), "json_schema": {"type": "string", "pattern": "("}}), "invalid_grammar"),
        (json!({"messages": user("x"), "json_schema": {"$ref": "#/nowhere"}}), "invalid_grammar"),
        (json!({"messages": user(&"word ".repeat(6000))}), "context_length_exceeded"),
    ] {
        let response = server.post(CHAT, &body);
        assert_eq!((response.status, &response.json()["error"]["code"]), (400, &json!(code)), "{}", response.text());
    }
    for bytes in [&b"{"[..], b"\xff\xfe", b"", b"7", b"{\"messages\": 1e999}", deep(100_000).as_bytes()] {
        assert_eq!(server.send("POST", CHAT, &[], bytes).status, 400, "{:?}", &bytes[..bytes.len().min(20)]);
    }
    let anthropic = server.post("/v1/messages", &json!({"messages": user("x")}));
    assert_eq!((anthropic.status, &anthropic.json()["type"]), (400, &json!("error")));
    assert!(anthropic.json()["error"]["message"].as_str().unwrap().starts_with("max_tokens: "));
    let missing = server.get("/nothing");
    assert_eq!((missing.status, &missing.json()["error"]["type"]), (404, &json!("not_found_error")));
    let method = server.get(CHAT);
    assert_eq!((method.status, method.header("allow")), (405, Some("POST")));
    assert!(method.json()["error"]["message"].is_string());
}

#[test]
fn limits_hold_and_slow_senders_are_told() {
    let server = Server::with_model(&["--max-body", "10K", "--request-timeout", "1", "--slots", "1", "--queue", "0"]);
    let body = json!({"messages": user(&"x".repeat(20_000))}).to_string();
    assert_eq!(server.send("POST", CHAT, &[], body.as_bytes()).status, 413);
    let chunked = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    );
    assert_eq!(server.raw(chunked.as_bytes()).status, 413);
    let long = "x".repeat(100_000);
    assert_eq!(server.send("GET", "/health", &[("x-long", &long)], b"").status, 431);
    let many: Vec<(String, &str)> = (0..200).map(|i| (format!("x-{i}"), "1")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    assert_eq!(server.send("GET", "/health", &many, b"").status, 431);
    let late = server.raw(b"GET /health HTTP/1.1\r\nhost: loc");
    assert_eq!((late.status, &late.json()["error"]["type"]), (408, &json!("invalid_request_error")));
    assert_eq!(server.raw(&server.request("POST", CHAT, &[("content-length", "100")], b"{\"mess")).status, 408);

    // One slot and no queue: who comes second is told to come later, and later there is a place.
    let mut stream = server.connect();
    let long = json!({"messages": user("The"), "max_tokens": 3000, "ignore_eos": true, "stream": true}).to_string();
    stream.write_all(&server.request("POST", CHAT, &[], long.as_bytes())).unwrap();
    let mut first = [0; 500];
    stream.read_exact(&mut first).unwrap();
    let full = server.post(CHAT, &json!({"messages": user("x")}));
    assert_eq!((full.status, &full.json()["error"]["type"]), (429, &json!("rate_limit_error")));
    assert!(full.header("retry-after").unwrap().parse::<u32>().unwrap() > 0);
    drop(stream);
    server.wait("a place is free", |server| {
        server.post(CHAT, &json!({"messages": user("x"), "max_tokens": 1})).status == 200
    });
    assert_eq!(server.metric("strata_cancelled_total"), 1.0);
}

#[test]
fn only_those_may_ask_who_are_allowed_to() {
    let server = Server::with_model(&["--api-key", "secret", "--cors-origin", "http://page.example"]);
    let status = |headers: &[(&str, &str)]| server.send("GET", "/v1/models", headers, b"").status;
    assert_eq!(status(&[]), 401);
    assert_eq!(status(&[("authorization", "Bearer wrong")]), 401);
    assert_eq!(status(&[("authorization", "Bearer secret")]), 200);
    assert_eq!(status(&[("x-api-key", "secret")]), 200);
    assert_eq!(status(&[("x-api-key", "secret"), ("host", "evil.example")]), 403);
    assert_eq!(status(&[("x-api-key", "secret"), ("origin", "http://evil.example")]), 403);
    assert_eq!(status(&[("x-api-key", "secret"), ("host", "localhost:99"), ("origin", "http://localhost:99")]), 200);
    let allowed = server.send("GET", "/v1/models", &[("x-api-key", "secret"), ("origin", "http://page.example")], b"");
    assert_eq!((allowed.status, allowed.header("access-control-allow-origin")), (200, Some("http://page.example")));
    assert_eq!(allowed.header("access-control-allow-credentials"), None);
    let preflight = [("origin", "http://page.example"), ("access-control-request-method", "POST")];
    let preflight = server.send("OPTIONS", CHAT, &preflight, b"");
    assert_eq!((preflight.status, preflight.header("access-control-allow-methods")), (204, Some("GET, POST")));
    let foreign = [("origin", "http://evil.example"), ("access-control-request-method", "POST")];
    assert_eq!(server.send("OPTIONS", CHAT, &foreign, b"").status, 403);
    for open in ["/health", "/", "/openapi.json"] {
        assert_eq!(server.get(open).status, 200, "{open}");
    }
    let page = server.get("/");
    assert!(page.header("content-security-policy").unwrap().contains("default-src 'none'"));
    let tag = page.header("etag").unwrap();
    assert_eq!(server.send("GET", "/", &[("if-none-match", tag)], b"").status, 304);

    let public = Command::new(env!("CARGO_BIN_EXE_strata"))
        .args(["serve", "-m", model().to_str().unwrap(), "--host", "0.0.0.0", "--port", "0"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&public.stderr);
    assert_eq!(public.status.code(), Some(1));
    assert!(said.contains("--api-key"), "{said}");
}

#[test]
fn models_come_and_go_as_they_are_asked_for() {
    let path = model();
    let named = |name: &str| format!("{name}={}", path.display());
    let (a, b) = (named("a"), named("b"));
    let ask = |server: &Server, name: &str| {
        let body = json!({"model": name, "prompt": "The iterator", "max_tokens": 8, "seed": 1});
        server.ok("/v1/completions", &body)["choices"][0]["text"].clone()
    };
    let states = |server: &Server| {
        let models = server.get("/v1/models").json();
        models["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|model| model["status"]["value"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let server = Server::start(&["-m", &a, "-m", &b, "--idle", "1"]);
    let before = server.get("/props").json()["memory"]["resident_bytes"].as_u64().unwrap();
    let text = ask(&server, "a");
    assert_eq!(ask(&server, "b"), text);
    let model = server.get("/props").json()["models"][0]["memory_bytes"].as_u64().unwrap();
    server.wait("idle models leave", |server| states(server) == ["unloaded", "unloaded"]);
    assert_eq!(ask(&server, "a"), text);
    drop(server);

    // Memory for one of them: the other has to leave.
    let ram = (before + 8_000_000 + model + model / 2).to_string();
    let server = Server::start(&["-m", &a, "-m", &b, "--ram", &ram]);
    for name in ["a", "b", "a"] {
        assert_eq!(ask(&server, name), text, "{name}: {}", server.said());
        let expected = if name == "a" { ["loaded", "unloaded"] } else { ["unloaded", "loaded"] };
        assert_eq!(states(&server), expected, "{}", server.said());
    }
    // Both at once: one waits for the other, and both are answered.
    thread::scope(|scope| {
        for i in 0..8 {
            let (server, text, ask) = (&server, &text, &ask);
            scope.spawn(move || assert_eq!(ask(server, ["a", "b"][i % 2]), *text));
        }
    });
}

#[test]
fn the_server_stops_gracefully() {
    let server = Server::with_model(&[]);
    assert_eq!(server.post(CHAT, &json!({"messages": user("x"), "max_tokens": 1})).status, 200);
    let mut reader = BufReader::new(server.connect());
    let body = json!({"prompt": "The", "max_tokens": 100_000, "ignore_eos": true, "stream": true}).to_string();
    reader.get_mut().write_all(&server.request("POST", "/v1/completions", &[], body.as_bytes())).unwrap();
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        std::io::BufRead::read_line(&mut reader, &mut line).unwrap();
    }
    assert!(chunk(&mut reader).is_some());
    server.terminate();
    // The stream ends as streams do: by the answer's end, or by an error that says why.
    let mut rest = Vec::new();
    while let Some(chunk) = chunk(&mut reader) {
        rest.extend(chunk);
    }
    let rest = String::from_utf8(rest).unwrap();
    assert!(rest.ends_with("[DONE]\n\n") || rest.contains("the server is stopping"), "{rest}");
    let (status, said) = server.end();
    assert_eq!(status.code(), Some(0), "{said}");
}

#[test]
fn a_connection_serves_many_requests() {
    let server = Server::with_model(&[]);
    let mut reader = BufReader::new(server.connect());
    for _ in 0..3 {
        reader.get_mut().write_all(&server.request("GET", "/health", &[], b"")).unwrap();
        assert_eq!(read(&mut reader, false).status, 200);
        reader.get_mut().write_all(&server.request("HEAD", "/health", &[], b"")).unwrap();
        assert_eq!(read(&mut reader, true).status, 200);
        reader.get_mut().write_all(&server.request("POST", CHAT, &[], b"{}")).unwrap();
        assert_eq!(read(&mut reader, false).status, 400);
    }
}
