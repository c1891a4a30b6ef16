//! Randomness as a handle, so that a test can own it. Cryptographically strong in both forms.

use std::sync::{Arc, Mutex, PoisonError};

use rand::rngs::{StdRng, SysRng};
use rand::{Rng, SeedableRng};

/// A shared generator.
#[derive(Clone)]
pub struct Random(Arc<Mutex<StdRng>>);

impl Random {
    /// Seeded by the operating system.
    ///
    /// # Panics
    /// When the operating system has no randomness to give, since nothing here may be guessable.
    pub fn system() -> Self {
        let rng =
            StdRng::try_from_rng(&mut SysRng).expect("the operating system provides randomness");
        Self(Arc::new(Mutex::new(rng)))
    }

    /// The same sequence for the same seed.
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    /// 128 random bits.
    pub fn u128(&self) -> u128 {
        let mut bytes = [0; 16];
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .fill_bytes(&mut bytes);
        u128::from_le_bytes(bytes)
    }

    /// A number in `0.0..1.0`.
    pub fn fraction(&self) -> f64 {
        let bits = u32::try_from(self.u128() >> 96).unwrap_or_default();
        f64::from(bits) / (f64::from(u32::MAX) + 1.0)
    }
}

impl std::fmt::Debug for Random {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Random")
    }
}
