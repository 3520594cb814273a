//! Reads the files that `kv import` takes: JSON lines, plain or gzipped.
//!
//! Each line is an object with `key` and `value`; other fields are passed over. The stored value is the exact
//! source text of the JSON value, except that a JSON string is stored as its decoded text. Empty lines are passed
//! over. Every error names the line.

use super::rules::{self, Refusal};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{
    borrow::Cow,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

/// The longest line, in bytes: a value of 1 MiB in which every character is escaped, with its key.
pub const LINE_BYTES_MAX: usize = 8 << 20;

/// A pair to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
}

/// A file cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It cannot be opened.
    #[error("cannot open {file}; check the path")]
    Open {
        /// The file.
        file: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It cannot be read on.
    #[error("line {line}: cannot be read; the file may be cut off or not be a gzip file")]
    Read {
        /// Number of the line, from 1.
        line: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A line is not what it should be.
    #[error("line {line}: {problem}; expected an object such as {{\"key\": \"a\", \"value\": 1}}")]
    Line {
        /// Number of the line, from 1.
        line: u64,
        /// What is wrong.
        problem: String,
    },
    /// A pair breaks the rules.
    #[error("line {line}: {refusal}")]
    Refused {
        /// Number of the line, from 1.
        line: u64,
        /// Which rule.
        refusal: Refusal,
    },
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    key: Cow<'a, str>,
    #[serde(borrow)]
    value: &'a RawValue,
}

/// Reads pairs from a source line by line; ends after the first error.
pub struct Pairs {
    source: Box<dyn BufRead + Send>,
    line: u64,
    buffer: Vec<u8>,
    failed: bool,
}

impl std::fmt::Debug for Pairs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pairs")
            .field("line", &self.line)
            .finish_non_exhaustive()
    }
}

/// The first bytes of every gzip file.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

impl Pairs {
    /// Opens `path`; `-` is the standard input. Whether it is gzipped shows in its first bytes, not in its name.
    ///
    /// # Errors
    /// When it cannot be opened or its first bytes cannot be read.
    pub fn open(path: &Path) -> Result<Self, ImportError> {
        let failed = |source| ImportError::Open {
            file: path.display().to_string(),
            source,
        };
        let raw: Box<dyn Read + Send> = match path.to_str() {
            Some("-") => Box::new(io::stdin()),
            _ => Box::new(File::open(path).map_err(failed)?),
        };
        Self::new(raw).map_err(failed)
    }

    /// Reads from `raw`, gzipped or not.
    ///
    /// # Errors
    /// When its first bytes cannot be read.
    pub fn new(raw: impl Read + Send + 'static) -> io::Result<Self> {
        let mut raw = BufReader::with_capacity(1 << 16, raw);
        let gzipped = raw.fill_buf()?.starts_with(&GZIP_MAGIC);
        let source: Box<dyn BufRead + Send> = if gzipped {
            Box::new(BufReader::with_capacity(
                1 << 16,
                flate2::bufread::MultiGzDecoder::new(raw),
            ))
        } else {
            Box::new(raw)
        };
        Ok(Pairs {
            source,
            line: 0,
            buffer: Vec::new(),
            failed: false,
        })
    }

    /// Returns the next pair, or `None` at the end.
    fn read(&mut self) -> Result<Option<Pair>, ImportError> {
        loop {
            self.line += 1;
            let line = self.line;
            self.buffer.clear();
            let bounded = (&mut self.source).take(LINE_BYTES_MAX as u64 + 1);
            let read = { bounded }
                .read_until(b'\n', &mut self.buffer)
                .map_err(|source| ImportError::Read { line, source })?;
            if read == 0 {
                return Ok(None);
            }
            if read > LINE_BYTES_MAX {
                let problem = format!("it is longer than {LINE_BYTES_MAX} bytes");
                return Err(ImportError::Line { line, problem });
            }
            let text = self.buffer.trim_ascii();
            if !text.is_empty() {
                return parse_line(line, text).map(Some);
            }
        }
    }
}

impl Iterator for Pairs {
    type Item = Result<Pair, ImportError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.read().transpose();
        self.failed = matches!(next, Some(Err(_)));
        next
    }
}

fn parse_line(line: u64, text: &[u8]) -> Result<Pair, ImportError> {
    let not_ours = |problem: String| ImportError::Line { line, problem };
    let parsed: Line<'_> = serde_json::from_slice(text).map_err(|error| not_ours(error.to_string()))?;
    let source = parsed.value.get();
    let value = if source.starts_with('"') {
        let decoded: String = serde_json::from_str(source).map_err(|error| not_ours(error.to_string()))?;
        Bytes::from(decoded)
    } else {
        Bytes::copy_from_slice(source.as_bytes())
    };
    let key = Bytes::from(parsed.key.into_owned());
    let refused = |refusal| ImportError::Refused { line, refusal };
    rules::check_key(&key).map_err(refused)?;
    if value.len() > rules::VALUE_BYTES_MAX {
        let refusal = Refusal::ValueTooLarge {
            key: rules::shown(&key),
            bytes: value.len(),
        };
        return Err(ImportError::Refused { line, refusal });
    }
    Ok(Pair { key, value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn read(text: impl Into<Vec<u8>>) -> Result<Vec<(String, String)>, ImportError> {
        let pairs = Pairs::new(io::Cursor::new(text.into())).expect("memory can be read");
        pairs
            .map(|pair| {
                let Pair { key, value } = pair?;
                let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).expect("test data is text");
                Ok((text(key), text(value)))
            })
            .collect()
    }

    #[test]
    fn a_value_is_stored_as_its_exact_source_text() {
        let cases = [
            (r#"{"key":"a","value":1}"#, "1"),
            (r#"{"key":"a","value": 1.500e+3 }"#, "1.500e+3"),
            (
                r#"{"key":"a","value":12345678901234567890123}"#,
                "12345678901234567890123",
            ),
            (
                r#"{"key":"a","value":{"b": [1,  2], "a":"\u00e9"}}"#,
                r#"{"b": [1,  2], "a":"\u00e9"}"#,
            ),
            (r#"{"value":[ ],"key":"a","other":true}"#, "[ ]"),
            (r#"{"key":"a","value":null}"#, "null"),
            (r#"{"key":"a","value":true}"#, "true"),
        ];
        for (line, expected) in cases {
            assert_eq!(
                read(line).unwrap(),
                [("a".to_owned(), expected.to_owned())],
                "{line}"
            );
        }
    }

    #[test]
    fn a_json_string_is_stored_as_its_decoded_text() {
        let found = read(r#"{"key":"k\u0065y","value":"tab\t\u00e9 \"q\""}"#).unwrap();
        assert_eq!(found, [("key".to_owned(), "tab\té \"q\"".to_owned())]);
        assert_eq!(
            read(r#"{"key":"a","value":""}"#).unwrap(),
            [("a".to_owned(), String::new())]
        );
    }

    #[test]
    fn an_error_names_its_line_and_ends_the_file() {
        let good = r#"{"key":"a","value":1}"#;
        let long_key = format!(
            r#"{{"key":"{}","value":1}}"#,
            "k".repeat(rules::KEY_BYTES_MAX + 1)
        );
        let cases = [
            "not json",
            r#"{"key":"b"}"#,
            r#"{"value":1}"#,
            r#"{"key":1,"value":1}"#,
            r#"{"key":"b","value":1} extra"#,
            r#"{"key":"b","value":"\ud800"}"#,
            r#"{"key":"","value":1}"#,
            &long_key,
        ];
        for bad in cases {
            // The empty line counts, though it holds nothing.
            let mut pairs =
                Pairs::new(io::Cursor::new(format!("{good}\n\n{bad}\n{good}\n").into_bytes())).unwrap();
            assert!(pairs.next().unwrap().is_ok());
            let error = pairs.next().unwrap().unwrap_err().to_string();
            assert!(error.starts_with("line 3: "), "{bad}: {error}");
            assert!(pairs.next().is_none());
        }
    }

    #[test]
    fn text_that_is_not_utf_8_is_an_error() {
        assert!(read(b"{\"key\":\"a\",\"value\":\"\xff\"}".to_vec()).is_err());
    }

    #[test]
    fn a_value_of_one_mebibyte_passes_and_one_more_byte_does_not() {
        let line = |bytes: usize| format!(r#"{{"key":"a","value":"{}"}}"#, "v".repeat(bytes));
        assert!(read(line(rules::VALUE_BYTES_MAX)).is_ok());
        let error = read(line(rules::VALUE_BYTES_MAX + 1)).unwrap_err();
        assert!(matches!(
            error,
            ImportError::Refused {
                line: 1,
                refusal: Refusal::ValueTooLarge { .. }
            }
        ));
    }

    #[test]
    fn a_gzipped_file_reads_like_a_plain_one_also_in_several_members() {
        let gzip = |text: &str| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(text.as_bytes()).unwrap();
            encoder.finish().unwrap()
        };
        let mut file = gzip("{\"key\":\"a\",\"value\":1}\n");
        file.extend(gzip("{\"key\":\"b\",\"value\":2}\n"));
        let expected = [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())];
        assert_eq!(read(file.clone()).unwrap(), expected);
        file.truncate(file.len() - 12);
        assert!(
            read(file).is_err(),
            "a file that is cut off is an error, not a shorter file"
        );
    }
}
