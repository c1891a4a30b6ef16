//! Pages of the web as text: what a reader sees, without markup. It reads HTML as it comes, right or wrong, in one pass.

/// Elements whose content nobody reads.
const UNSEEN: [&str; 7] = [
    "script", "style", "noscript", "template", "svg", "iframe", "title",
];
/// Elements that stand on lines of their own.
const BLOCKS: [&str; 32] = [
    "address",
    "article",
    "aside",
    "blockquote",
    "br",
    "dd",
    "div",
    "dl",
    "dt",
    "fieldset",
    "figcaption",
    "figure",
    "footer",
    "form",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "header",
    "hr",
    "li",
    "main",
    "nav",
    "ol",
    "p",
    "pre",
    "section",
    "table",
    "tr",
    "ul",
];
/// The longest name of a character.
const LONGEST_NAME: usize = 10;

/// What a page is called, and what it says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) title: Option<String>,
    pub(crate) text: String,
}

/// Reads a page.
pub(crate) fn page(html: &str) -> Page {
    let mut page = Page {
        title: between(html, "title").map(|title| line(&decoded(title))),
        text: String::new(),
    };
    page.title.take_if(|title| title.is_empty());
    let mut lines = Lines::default();
    // What is begun behind the last end of a tag is none, and must not be looked for again and again.
    let (mut rest, mut tail) = html.split_at(html.rfind('>').map_or(0, |last| last + 1));
    while let Some(at) = rest.find('<') {
        lines.say(&decoded(&rest[..at]));
        rest = &rest[at..];
        if let Some(comment) = rest.strip_prefix("<!--") {
            rest = comment.find("-->").map_or("", |end| &comment[end + 3..]);
            continue;
        }
        let Some(tag) = Tag::read(rest) else {
            lines.say("<");
            rest = &rest[1..];
            continue;
        };
        rest = &rest[tag.length..];
        if UNSEEN.contains(&tag.name.as_str()) && !tag.is_end && !tag.is_empty {
            if let Some(behind) = behind(rest, &tag.name) {
                rest = behind;
            } else {
                (rest, tail) = ("", "");
            }
        } else if BLOCKS.contains(&tag.name.as_str()) {
            lines.end();
            if tag.name == "li" && !tag.is_end {
                lines.say("- ");
            }
        } else if matches!(tag.name.as_str(), "td" | "th") {
            lines.say(" ");
        }
    }
    lines.say(&decoded(rest));
    lines.say(&decoded(tail));
    lines.end();
    lines.text.trim_end().clone_into(&mut page.text);
    page
}

/// What stands between the tags of the first element `name`.
fn between<'a>(html: &'a str, name: &str) -> Option<&'a str> {
    let starts = html.match_indices('<').map(|(at, _)| &html[at + 1..]);
    let mut starts = starts.filter(|rest| is_called(rest, name));
    let start = starts.next()?;
    let inside = &start[start.find('>')? + 1..];
    let end = inside.find("</").unwrap_or(inside.len());
    Some(&inside[..end])
}

/// Whether `tag` begins with `name`, in whatever case, and no longer name.
fn is_called(tag: &str, name: &str) -> bool {
    let own = tag.get(..name.len());
    own.is_some_and(|own| own.eq_ignore_ascii_case(name))
        && !tag[name.len()..].starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// What stands behind the end of the element `name`, if it has one.
fn behind<'a>(html: &'a str, name: &str) -> Option<&'a str> {
    let ends = html.match_indices("</").map(|(at, _)| &html[at + 2..]);
    let mut ends = ends.filter(|rest| is_called(rest, name));
    let end = ends.next()?;
    Some(&end[end.find('>')? + 1..])
}

struct Tag {
    name: String,
    is_end: bool,
    /// Whether nothing is in it.
    is_empty: bool,
    /// With its brackets.
    length: usize,
}

impl Tag {
    /// The tag with which `html` begins.
    fn read(html: &str) -> Option<Self> {
        let inside = html.strip_prefix('<')?;
        let (inside, is_end) = match inside.strip_prefix('/') {
            Some(inside) => (inside, true),
            None => (inside, false),
        };
        if !inside.starts_with(|c: char| c.is_ascii_alphabetic() || c == '!' || c == '?') {
            return None;
        }
        let name: String = inside
            .chars()
            .take_while(char::is_ascii_alphanumeric)
            .collect();
        let mut quote = None;
        let end = inside.char_indices().find_map(|(at, c)| {
            match (quote, c) {
                (Some(open), c) if open == c => quote = None,
                (None, '"' | '\'') if inside[..at].trim_end().ends_with('=') => quote = Some(c),
                (None, '>') => return Some(at),
                _ => {}
            }
            None
        });
        // A quote that is never closed hides no page.
        let end = end.or_else(|| inside.find('>'))?;
        Some(Self {
            name: name.to_ascii_lowercase(),
            length: html.len() - inside.len() + end + 1,
            is_empty: inside[..end].ends_with('/'),
            is_end,
        })
    }
}

/// Lines as a reader sees them: white space is one space, and at most one line in a row is empty.
#[derive(Default)]
struct Lines {
    text: String,
    line: String,
}

impl Lines {
    fn say(&mut self, text: &str) {
        for c in text.chars() {
            let is_space = c.is_whitespace();
            if is_space && (self.line.is_empty() || self.line.ends_with(' ')) {
                continue;
            }
            self.line.push(if is_space { ' ' } else { c });
        }
    }

    fn end(&mut self) {
        let line = std::mem::take(&mut self.line);
        let line = line.trim_end();
        if line.is_empty() || line == "-" {
            if !self.text.is_empty() && !self.text.ends_with("\n\n") {
                self.text.push('\n');
            }
            return;
        }
        self.text.push_str(line);
        self.text.push('\n');
    }
}

fn line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ")
}

/// Names and numbers of characters as these; control characters are left out.
fn decoded(text: &str) -> String {
    let mut decoded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        decoded.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = rest.bytes().take(LONGEST_NAME + 2).position(|b| b == b';');
        if let Some((character, end)) = end.and_then(|end| Some((character(&rest[1..end])?, end))) {
            decoded.push(character);
            rest = &rest[end + 1..];
        } else {
            decoded.push('&');
            rest = &rest[1..];
        }
    }
    decoded.push_str(rest);
    decoded.retain(|c| !c.is_control() || c.is_whitespace());
    decoded
}

fn character(name: &str) -> Option<char> {
    if let Some(number) = name.strip_prefix('#') {
        let number = match number.strip_prefix(['x', 'X']) {
            Some(digits) => u32::from_str_radix(digits, 16),
            None => number.parse(),
        };
        return char::from_u32(number.ok()?);
    }
    Some(match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" => ' ',
        "hellip" => '…',
        "ndash" => '–',
        "mdash" => '—',
        "lsquo" => '‘',
        "rsquo" => '’',
        "ldquo" => '“',
        "rdquo" => '”',
        "laquo" => '«',
        "raquo" => '»',
        "bull" => '•',
        "middot" => '·',
        "copy" => '©',
        "reg" => '®',
        "trade" => '™',
        "euro" => '€',
        "pound" => '£',
        "deg" => '°',
        "times" => '×',
        "iexcl" => '¡',
        "iquest" => '¿',
        "aacute" => 'á',
        "eacute" => 'é',
        "iacute" => 'í',
        "oacute" => 'ó',
        "uacute" => 'ú',
        "ntilde" => 'ñ',
        "auml" => 'ä',
        "ouml" => 'ö',
        "uuml" => 'ü',
        "szlig" => 'ß',
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_what_a_reader_sees() {
        let html = "<!DOCTYPE html><html><head><title> A &amp; B\n</title><style>p {}</style></head><body data-x='a>b'>
            <h1>Caf&eacute; &#x2014; menu</h1><p>Two   <b>words</b>,<br>another&nbsp;line.</p><!-- no <p>comment</p> -->
            <ul><li>one<li>two</ul><script>if (a < b) { document.write('<p>x</p>') }</script>
            <table><tr><td>1</td><td>2</td></tr></table>3 < 4 & 5 &bogus; </body></html>";
        let page = page(html);
        assert_eq!(page.title.as_deref(), Some("A & B"));
        assert_eq!(
            page.text,
            "Café — menu\n\nTwo words,\nanother line.\n\n- one\n- two\n\n1 2\n\n3 < 4 & 5 &bogus;"
        );
    }

    #[test]
    fn what_is_no_page_is_read_too() {
        for (html, text) in [
            ("", ""),
            ("plain", "plain"),
            ("<", "<"),
            ("a <b", "a <b"),
            ("<p title=\"never closed>x</p>", "x"),
            ("<script>for ever", ""),
            ("&#xD800; &#99999999999; &", "&#xD800; &#99999999999; &"),
            ("é<é>é", "é<é>é"),
            ("<svg/>seen<TITLE>t</TITLE>", "seen"),
        ] {
            assert_eq!(page(html).text, text, "{html}");
        }
    }
}
