//! A bearer token and its hash.

use snapshot_store::Entropy;
use std::{fmt, path::Path, str::FromStr};

/// Shortest token that is accepted, in characters: shorter ones can be guessed from their hash.
pub const TOKEN_LENGTH_MIN: usize = 32;
/// The longest; a file that holds more is not a token.
const TOKEN_LENGTH_MAX: usize = 512;

/// A secret that a client shows to servers. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

/// What is wrong with a token; says nothing of its content.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error("cannot read the token file {path}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It does not hold one token.
    #[error("the token has {length} characters; {TOKEN_LENGTH_MIN} to {TOKEN_LENGTH_MAX} are allowed")]
    Length {
        /// Its length.
        length: usize,
    },
    /// It holds characters that cannot be sent.
    #[error("the token holds spaces, line breaks or characters beyond ASCII")]
    Characters,
}

impl Token {
    /// Reads the token in the file at `path`; white space around it is passed over.
    ///
    /// # Errors
    /// When the file cannot be read, or holds no token.
    pub fn load(path: &Path) -> Result<Self, TokenError> {
        let text = std::fs::read_to_string(path).map_err(|source| TokenError::Unreadable {
            path: path.display().to_string(),
            source,
        })?;
        text.trim().parse()
    }

    /// Draws a new one, of 256 bits.
    pub fn draw(entropy: &Entropy) -> Self {
        Token(hex::encode(entropy.bytes_16()) + &hex::encode(entropy.bytes_16()))
    }

    /// Returns the secret itself. For the request that shows it and the file that keeps it, and nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Returns the hash that servers know it by.
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(self.0.as_bytes())
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let length = text.chars().count();
        if !(TOKEN_LENGTH_MIN..=TOKEN_LENGTH_MAX).contains(&length) {
            return Err(TokenError::Length { length });
        }
        match text.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(Token(text.to_owned())),
            false => Err(TokenError::Characters),
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(secret)")
    }
}

/// BLAKE3 of a token. Compared in constant time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenHash(blake3::Hash);

impl TokenHash {
    /// Hashes what a caller presented.
    pub fn of(secret: &[u8]) -> Self {
        TokenHash(blake3::hash(secret))
    }

    /// Parses 64 hexadecimal characters.
    pub fn from_hex(text: &str) -> Option<Self> {
        blake3::Hash::from_hex(text).ok().map(TokenHash)
    }
}

/// Writes 64 hexadecimal characters.
impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_hex())
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(…)")
    }
}
