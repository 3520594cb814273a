//! Changing inputs at random, from a seed.

/// Pieces that parsers stumble over.
const TOKENS: &[&[u8]] = &[
    b"null",
    b"true",
    b"{}",
    b"[]",
    b"\"\"",
    b"0",
    b"-1",
    b"-0",
    b"1e999",
    b"0.1",
    b"1.7976931348623157e308",
    b"18446744073709551615",
    b"18446744073709551616",
    b"9007199254740993",
    b"4294967296",
    b"\"\\ud800\"",
    b"\"\\u0000\"",
    b"\xff",
    b"\xc3\x28",
    b"..",
    b"/",
    b"\"format\": 1",
    b"\"format\": 99",
    b"\"zz\": [0.1, {}],",
    b"\x00",
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
    b"\x0a\x00",
    b",",
    b"{",
    b"}",
    b"[[[[[[[[[[[[[[[[",
];

/// The longest input; stored objects and records are far shorter in tests.
const BYTES_MAX: usize = 16 << 10;

/// An endless source of inputs.
#[derive(Debug)]
pub struct Mutator {
    inputs: Vec<Vec<u8>>,
    state: u64,
}

impl Mutator {
    /// Begins with `inputs` and `seed`: the same ones give the same sequence.
    pub fn new(inputs: Vec<Vec<u8>>, seed: u64) -> Self {
        Mutator { inputs, state: seed }
    }

    /// SplitMix64: short, and the same everywhere.
    fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 when there is none.
    fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.draw() % end).unwrap_or(0)
    }

    /// Returns a stored input with one to four changes.
    pub fn next_input(&mut self) -> Vec<u8> {
        let pick = self.below(self.inputs.len());
        let mut input = self.inputs[pick].clone();
        for _ in 0..=self.below(4) {
            self.change(&mut input);
        }
        input.truncate(BYTES_MAX);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.below(input.len() + 1);
        let length = self.below(12).min(input.len() - at);
        match self.below(14) {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 if at < input.len() => input[at] = self.draw().to_le_bytes()[0],
            2 => {
                input.drain(at..at + length);
            }
            3 => {
                let copied: Vec<u8> = input[at..at + length].to_vec();
                let place = self.below(input.len() + 1);
                input.splice(place..place, copied);
            }
            4 => {
                let token = TOKENS[self.below(TOKENS.len())];
                input.splice(at..at + length, token.iter().copied());
            }
            // What stays readable gets beyond the parser.
            8..14 => self.replace_number(input, at),
            5 => {
                let other = self.below(self.inputs.len());
                let other = &self.inputs[other];
                let from = at.min(other.len());
                let tail: Vec<u8> = other[from..].to_vec();
                input.truncate(at);
                input.extend(tail);
            }
            6 => input.truncate(at),
            _ => {
                let token = TOKENS[self.below(TOKENS.len())];
                input.splice(at..at, token.iter().copied());
            }
        }
    }

    /// Puts another number in the place of the next digits, which keeps the rest readable.
    fn replace_number(&mut self, input: &mut Vec<u8>, at: usize) {
        let Some(offset) = input[at..].iter().position(u8::is_ascii_digit) else {
            return;
        };
        let begin = at + offset;
        let digits = input[begin..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        let number = match self.below(4) {
            0 => u64::MAX,
            1 => 0,
            2 => self.draw() % 10,
            _ => self.draw(),
        };
        input.splice(begin..begin + digits, number.to_string().into_bytes());
    }
}
