//! A file without its comments and literals, as words and marks, with the test parts known.

/// A word (identifier, keyword, number) or a mark (one character; `::` is one mark).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) text: String,
    /// From 0.
    pub(super) line: usize,
    /// Within an item that `#[cfg(test)]` guards.
    pub(super) test: bool,
}

/// Replaces comments, strings and character literals by blanks; lines stay where they are.
pub(super) fn blank(text: &str) -> String {
    let s: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    while i < s.len() {
        let end = literal_end(&s, i);
        if end > i {
            out.extend(s[i..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            i = end;
        } else {
            out.push(s[i]);
            i += 1;
        }
    }
    out
}

fn at(s: &[char], i: usize) -> char {
    s.get(i).copied().unwrap_or('\0')
}

/// The end of the comment or literal that begins at `i`; `i` when none does.
fn literal_end(s: &[char], i: usize) -> usize {
    let word_before = i > 0 && is_word(s[i - 1]);
    match at(s, i) {
        '/' if at(s, i + 1) == '/' => find(s, i, '\n'),
        '/' if at(s, i + 1) == '*' => block_comment_end(s, i),
        '"' => string_end(s, i),
        'b' | 'c' | 'r' if !word_before => {
            let raw = if at(s, i) == 'r' { i } else { i + 1 };
            match (at(s, raw), at(s, i + 1)) {
                ('r', _) if raw_string_end(s, raw) > raw => raw_string_end(s, raw),
                (_, '"') if at(s, i) != 'r' => string_end(s, i + 1),
                ('\'', _) if at(s, i) == 'b' => char_end(s, i + 1),
                _ => i,
            }
        }
        '\'' => char_end(s, i),
        _ => i,
    }
}

fn find(s: &[char], from: usize, c: char) -> usize {
    (from..s.len()).find(|i| s[*i] == c).unwrap_or(s.len())
}

fn block_comment_end(s: &[char], mut i: usize) -> usize {
    let mut depth = 0;
    while i < s.len() {
        match (at(s, i), at(s, i + 1)) {
            ('/', '*') => (depth, i) = (depth + 1, i + 2),
            ('*', '/') => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            return i;
        }
    }
    i
}

/// `i` is at the opening quote.
fn string_end(s: &[char], mut i: usize) -> usize {
    i += 1;
    while i < s.len() && s[i] != '"' {
        i += if s[i] == '\\' { 2 } else { 1 };
    }
    (i + 1).min(s.len())
}

/// `i` is at the `r`; `i` when no raw string follows (a raw identifier, an ordinary word).
fn raw_string_end(s: &[char], i: usize) -> usize {
    let hashes = s[i + 1..].iter().take_while(|c| **c == '#').count();
    if at(s, i + 1 + hashes) != '"' {
        return i;
    }
    let mut end = i + 2 + hashes;
    while end < s.len() {
        if s[end] == '"'
            && s[end + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes
        {
            return end + 1 + hashes;
        }
        end += 1;
    }
    end
}

/// `i` is at the quote; a lifetime is no literal.
fn char_end(s: &[char], i: usize) -> usize {
    match (at(s, i + 1), at(s, i + 2)) {
        ('\\', _) => find(s, i + 3, '\'') + 1,
        (_, '\'') => i + 3,
        _ => i + 1,
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The words and marks of a file, with the test parts marked.
pub(super) fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    for (line, text) in blank(text).lines().enumerate() {
        let mut chars = text.char_indices().peekable();
        while let Some((start, c)) = chars.next() {
            let mut end = start + c.len_utf8();
            if is_word(c) {
                while let Some((i, c)) = chars.next_if(|(_, c)| is_word(*c)) {
                    end = i + c.len_utf8();
                }
            } else if c == ':' && chars.next_if(|(_, c)| *c == ':').is_some() {
                end += 1;
            } else if c.is_whitespace() {
                continue;
            }
            tokens.push(Token { text: text[start..end].to_owned(), line, test: false });
        }
    }
    mark_tests(&mut tokens);
    tokens
}

/// Whether the words read `pattern` from `i` on.
pub(super) fn reads(tokens: &[Token], i: usize, pattern: &[&str]) -> bool {
    tokens.len() >= i + pattern.len() && pattern.iter().zip(&tokens[i..]).all(|(p, t)| *p == t.text)
}

/// The index after the bracket that closes the one at `open`.
pub(super) fn close(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0usize;
    for (i, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return i + 1;
                }
            }
            _ => {}
        }
    }
    tokens.len()
}

/// The index after the item that begins at `i`: after its `;`, or after its block.
pub(super) fn item_end(tokens: &[Token], mut i: usize) -> usize {
    while i < tokens.len() {
        match tokens[i].text.as_str() {
            ";" => return i + 1,
            "{" => return close(tokens, i),
            "(" | "[" => i = close(tokens, i),
            _ => i += 1,
        }
    }
    i
}

fn mark_tests(tokens: &mut [Token]) {
    let mut i = 0;
    while i < tokens.len() {
        if !reads(tokens, i, &["#", "[", "cfg", "("]) {
            i += 1;
            continue;
        }
        let mut item = close(tokens, i + 1);
        let guard: Vec<&str> = tokens[i..item].iter().map(|t| t.text.as_str()).collect();
        let negated = guard.windows(3).any(|w| w == ["not", "(", "test"]);
        if !guard.contains(&"test") || negated {
            i = item;
            continue;
        }
        while reads(tokens, item, &["#", "["]) {
            item = close(tokens, item + 1);
        }
        let end = item_end(tokens, item);
        tokens[i..end].iter_mut().for_each(|t| t.test = true);
        i = end;
    }
}
