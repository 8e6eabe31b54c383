//! Randomness that is the same in every run.

use std::sync::atomic::{AtomicU64, Ordering};

use keyturn_domain::entropy::Entropy;
use sha2::{Digest, Sha256};

/// Bytes that look random and follow from a seed: SHA-256 over the seed and a counter. For tests only; whoever
/// knows the seed knows the bytes.
#[derive(Debug, Default)]
pub struct SeededEntropy {
    seed: u64,
    drawn: AtomicU64,
}

impl SeededEntropy {
    /// The bytes of this seed.
    pub fn new(seed: u64) -> Self {
        Self { seed, drawn: AtomicU64::new(0) }
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, out: &mut [u8]) {
        for chunk in out.chunks_mut(32) {
            let drawn = self.drawn.fetch_add(1, Ordering::SeqCst);
            let block =
                Sha256::new_with_prefix(self.seed.to_be_bytes()).chain_update(drawn.to_be_bytes()).finalize();
            chunk.iter_mut().zip(block).for_each(|(to, from)| *to = from);
        }
    }
}
