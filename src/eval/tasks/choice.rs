//! The random tasks that llama.cpp takes of a file: its generator and its two ways to choose.

/// The Mersenne Twister MT19937 (Matsumoto and Nishimura 1998), as `std::mt19937`.
struct Twister {
    state: [u32; Twister::N],
    at: usize,
}

impl Twister {
    const N: usize = 624;

    fn new(seed: u32) -> Twister {
        let mut state = [seed; Twister::N];
        for i in 1..Twister::N {
            let before = state[i - 1];
            state[i] = 1_812_433_253u32.wrapping_mul(before ^ (before >> 30)).wrapping_add(i as u32);
        }
        Twister { state, at: Twister::N }
    }

    fn next(&mut self) -> u32 {
        if self.at == Twister::N {
            for i in 0..Twister::N {
                let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % Twister::N] & 0x7fff_ffff);
                let twist = if y & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[i] = self.state[(i + 397) % Twister::N] ^ (y >> 1) ^ twist;
            }
            self.at = 0;
        }
        let mut y = self.state[self.at];
        self.at += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// A number below `n`, at least 1, as `std::uniform_int_distribution` of libstdc++ draws it since GCC 11 (Lemire 2019).
    fn below(&mut self, n: u32) -> u32 {
        loop {
            let product = u64::from(self.next()) * u64::from(n);
            if product as u32 >= n.wrapping_neg() % n {
                return (product >> 32) as u32;
            }
        }
    }
}

/// `n` of `all` tasks, or all, one drawn after the other: of HellaSwag, with llama.cpp built by GCC.
pub(super) fn drawn(all: usize, n: usize) -> Vec<usize> {
    let (mut twister, mut left) = (Twister::new(1), (0..all).collect::<Vec<_>>());
    (0..n.min(all)).map(|_| left.remove(twister.below(left.len() as u32) as usize)).collect()
}

/// `n` of `all` tasks; all in their order if these are no more, or `n` is not given: of Winogrande and multiple choices.
pub(super) fn chosen(all: usize, n: Option<usize>) -> Vec<usize> {
    let mut left: Vec<usize> = (0..all).collect();
    let Some(n) = n.filter(|n| *n < all) else { return left };
    let mut twister = Twister::new(1);
    let scale = 1.0 / (1.0 + u32::MAX as f32);
    // In single precision, in which the place may come out as the number of all.
    let mut place = |left: usize| ((scale * twister.next() as f32 * left as f32) as usize).min(left - 1);
    (0..n).map(|_| left.swap_remove(place(left.len()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_standard_library() {
        // C++ standard, [rand.predef]: the 10000th number of the default seed.
        let mut twister = Twister::new(5489);
        assert_eq!((0..10_000).map(|_| twister.next()).last(), Some(4_123_659_995));
    }

    /// What the loops of llama.cpp choose when g++ 12 compiles them.
    #[test]
    fn choices_are_those_of_llama_cpp() {
        assert_eq!(drawn(12, 99), [5, 11, 8, 10, 0, 1, 3, 9, 2, 4, 6, 7]);
        let mix = |chosen: &[usize]| chosen.iter().fold(0, |sum, i| (sum * 31 + i) % 1_000_003);
        let hellaswag = drawn(10_042, 400);
        assert_eq!((&hellaswag[..6], mix(&hellaswag)), (&[4187, 10_013, 7233, 9363, 1, 1286][..], 790_236));
        let winogrande = chosen(1267, Some(100));
        assert_eq!((&winogrande[..6], mix(&winogrande)), (&[528, 1262, 911, 1178, 0, 161][..], 968_841));
        assert_eq!(chosen(3, None), [0, 1, 2]);
        assert_eq!(chosen(3, Some(3)), [0, 1, 2]);
    }
}
