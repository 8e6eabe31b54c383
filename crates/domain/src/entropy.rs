//! Where randomness comes from.

/// A cryptographically secure random source. It cannot fail: a system that has no randomness cannot rotate
/// passwords and must stop, so implementations abort rather than return weak bytes.
pub trait Entropy: Send + Sync + 'static {
    /// Fills `out` with random bytes.
    fn fill(&self, out: &mut [u8]);
}

impl dyn Entropy + '_ {
    /// `N` random bytes.
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut out = [0; N];
        self.fill(&mut out);
        out
    }

    /// A uniform number in `0..bound`, by rejection. `bound` is at least 1; 0 is treated as 1.
    pub fn below(&self, bound: u32) -> u32 {
        let bound = bound.max(1);
        let limit = u32::MAX - u32::MAX.wrapping_rem(bound);
        loop {
            let draw = u32::from_le_bytes(self.bytes());
            if draw < limit {
                return draw % bound;
            }
        }
    }
}
