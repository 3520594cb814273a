//! Randomness, a seam: passed in from the outermost layer, seeded in a simulation.

use super::Timestamp;
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use std::sync::{Arc, Mutex, PoisonError};
use ulid::Ulid;

/// A shared source of randomness. Clones draw from the same stream.
#[derive(Clone, Debug)]
pub struct Entropy(Arc<Mutex<StdRng>>);

impl Entropy {
    /// Seeds from the operating system.
    pub fn from_os() -> Self {
        // `rand::rng` is seeded from the operating system; this is where real randomness enters.
        #[expect(clippy::disallowed_methods, reason = "this is where real randomness enters")]
        let rng = StdRng::from_rng(&mut rand::rng());
        Entropy(Arc::new(Mutex::new(rng)))
    }

    /// Seeds with a fixed number: equal seeds give equal streams.
    pub fn seeded(seed: u64) -> Self {
        Entropy(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    fn draw<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Draws 64 bits.
    pub fn next_u64(&self) -> u64 {
        self.draw(|rng| rng.next_u64())
    }

    /// Draws 128 bits.
    pub fn bytes_16(&self) -> [u8; 16] {
        self.draw(|rng| {
            let mut bytes = [0; 16];
            rng.fill_bytes(&mut bytes);
            bytes
        })
    }

    /// Draws a number below `bound`, uniformly; `None` when `bound` is 0.
    pub fn below(&self, bound: usize) -> Option<usize> {
        (bound > 0).then(|| self.draw(|rng| rng.random_range(0..bound)))
    }

    /// Draws a factor from `[1 - spread, 1 + spread)`, for jitter; `spread` is from 0 to 1.
    pub fn jitter(&self, spread: f64) -> f64 {
        1.0 - spread + 2.0 * spread * self.draw(|rng| rng.random::<f64>())
    }

    /// Draws a ULID for the moment `now`: sortable by time, with 80 random bits.
    pub fn ulid(&self, now: Timestamp) -> Ulid {
        let random = u128::from_be_bytes(self.bytes_16());
        Ulid::from_parts(now.as_millis(), random)
    }
}

/// The seams that nearly every part needs: time and randomness, passed in from the outermost layer.
#[derive(Clone)]
pub struct Seams {
    /// Wall-clock time.
    pub clock: Arc<dyn super::Clock>,
    /// Randomness.
    pub entropy: Entropy,
}

impl Seams {
    /// The real clock and real randomness.
    pub fn real() -> Self {
        Seams {
            clock: Arc::new(super::SystemClock),
            entropy: Entropy::from_os(),
        }
    }

    /// Draws a ULID for the present moment.
    pub fn ulid(&self) -> Ulid {
        self.entropy.ulid(self.clock.now())
    }
}
