//! How often a test disturbs a cluster, and by which choices.

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

/// How many rounds a test has, and what its choices come from.
#[derive(Debug)]
pub struct Rounds {
    /// How many rounds.
    pub rounds: u64,
    /// What the choices come from.
    pub seed: u64,
    /// Makes the choices.
    pub random: StdRng,
}

impl Rounds {
    /// Takes `TIDEMARK_CHAOS_ROUNDS` (`otherwise` without it) and `TIDEMARK_CHAOS_SEED` (another one in every process
    /// without it), and says so.
    pub fn from_environment(otherwise: u64) -> Self {
        let rounds = setting("TIDEMARK_CHAOS_ROUNDS", otherwise);
        let seed = setting("TIDEMARK_CHAOS_SEED", u64::from(std::process::id()));
        eprintln!("{rounds} rounds; TIDEMARK_CHAOS_SEED={seed} repeats the choices");
        Rounds {
            rounds,
            seed,
            random: StdRng::seed_from_u64(seed),
        }
    }
}

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(otherwise)
}

/// Things in random order, again and again, so that few rounds reach all of them.
#[derive(Debug)]
pub struct Deck<T> {
    all: Vec<T>,
    left: Vec<T>,
}

impl<T: Clone> Deck<T> {
    /// Returns a deck of `all`.
    pub fn new(all: Vec<T>) -> Self {
        let left = Vec::new();
        Deck { all, left }
    }

    /// Deals one to `at_once_max`. It stops early at the deck's end, and before one that meets one already dealt: that
    /// one comes first next time.
    pub fn deal(&mut self, random: &mut StdRng, at_once_max: usize, meet: impl Fn(&T, &T) -> bool) -> Vec<T> {
        if self.left.is_empty() {
            self.left = self.all.clone();
            self.left.shuffle(random);
        }
        let count = random.random_range(1..=at_once_max);
        let mut dealt: Vec<T> = Vec::new();
        while dealt.len() < count
            && let Some(next) = self.left.pop()
        {
            if dealt.iter().any(|other| meet(other, &next)) {
                self.left.push(next);
                break;
            }
            dealt.push(next);
        }
        dealt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_way_through_the_deck_deals_everything_once_and_nothing_beside_what_it_meets() {
        for seed in 0..100 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut deck = Deck::new((0..20).collect());
            let mut seen = Vec::new();
            while seen.len() < 20 {
                let dealt = deck.deal(&mut random, 3, |one, other| one % 5 == other % 5);
                assert!((1..=3).contains(&dealt.len()), "{dealt:?}");
                let mut apart: Vec<u32> = dealt.iter().map(|number| number % 5).collect();
                apart.sort_unstable();
                apart.dedup();
                assert_eq!(apart.len(), dealt.len(), "{dealt:?}");
                seen.extend(dealt);
            }
            seen.sort_unstable();
            assert_eq!(seen, (0..20).collect::<Vec<u32>>());
        }
    }
}
