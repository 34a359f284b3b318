//! The files of the page and the paths under which they are served. Libraries of others lie in `vendor/`, with their licenses.

use super::File;

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const IMAGE: &str = "image/svg+xml";

/// A table of the files of each type; a path is the file's own, below `/`.
macro_rules! files {
    ($($kind:ident: $($path:literal)+;)+) => {
        &[
            File { path: "/", kind: HTML, bytes: include_bytes!("index.html") },
            $($(File { path: concat!("/", $path), kind: $kind, bytes: include_bytes!($path) }),+),+
        ]
    };
}

/// All files. `/` is the first.
pub static FILES: &[File] = files! {
    SCRIPT: "answers.js" "api.js" "app.js" "chat.js" "clipboard.js" "dom.js" "exchange.js" "files.js"
        "format.js" "gauges.js" "kept.js" "markdown.js" "math.js" "progress.js" "prompt.js" "render.js" "search.js" "server.js"
        "settings.js" "sse.js" "store.js" "tex.js" "theme.js" "transfer.js" "tree.js" "view-composer.js"
        "view-dialogs.js" "view-list.js" "view-message.js" "view-settings.js" "view-transcript.js"
        "vendor/highlight.min.js" "vendor/markdown-it.min.js" "vendor/purify.min.js" "vendor/temml.min.js";
    STYLE: "style.css" "vendor/temml.css";
    IMAGE: "icon.svg";
};

#[cfg(test)]
mod tests {
    use super::*;

    /// What scripts import and what the page refers to.
    fn named(text: &str) -> impl Iterator<Item = &str> {
        let after = [" from \"./", " src=\"", " href=\""];
        let rests = after.into_iter().flat_map(|mark| text.split(mark).skip(1));
        rests
            .filter_map(|rest| rest.split('"').next())
            .filter(|path| path.bytes().all(|b| b.is_ascii_alphanumeric() || b"./-".contains(&b)))
    }

    #[test]
    fn the_page_is_whole() {
        let own = FILES.iter().filter(|file| !file.path.starts_with("/vendor") && [HTML, SCRIPT].contains(&file.kind));
        let texts: Vec<&str> = own.map(|file| std::str::from_utf8(file.bytes).unwrap()).collect();
        let paths: Vec<&str> = texts.iter().flat_map(|text| named(text)).collect();
        assert!(paths.len() > 50, "{}", paths.len());
        for path in &paths {
            assert!(FILES.iter().any(|file| file.path[1..] == **path), "{path}");
        }
        // And carries nothing that nobody uses.
        for file in &FILES[1..] {
            assert!(paths.contains(&&file.path[1..]), "{}", file.path);
        }
    }
}
