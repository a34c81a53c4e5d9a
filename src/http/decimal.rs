//! Numbers as text, without the machinery of formatting: heads and log lines are full of them.

/// The two digits of each number below 100.
const PAIRS: &[u8; 200] = b"0001020304050607080910111213141516171819\
2021222324252627282930313233343536373839\
4041424344454647484950515253545556575859\
6061626364656667686970717273747576777879\
8081828384858687888990919293949596979899";

/// A number's decimal digits.
#[derive(Clone, Copy, Debug)]
pub struct Decimal {
    digits: [u8; 20],
    start: usize,
}

impl Decimal {
    /// The digits of `number`.
    #[inline]
    pub fn of(mut number: u64) -> Self {
        let mut digits = [0; 20];
        let mut start = digits.len();
        while number >= 100 {
            start -= 2;
            digits[start..start + 2].copy_from_slice(&two_digits((number % 100) as u32));
            number /= 100;
        }
        if number >= 10 {
            start -= 2;
            digits[start..start + 2].copy_from_slice(&two_digits(number as u32));
        } else {
            start -= 1;
            digits[start] = b'0' + number as u8;
        }
        Self { digits, start }
    }

    /// The text.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.digits[self.start..]
    }
}

/// A number below 100 with a zero before it where it has one digit; of larger ones the last two digits.
#[inline]
pub fn two_digits(number: u32) -> [u8; 2] {
    let at = (number % 100) as usize * 2;
    [PAIRS[at], PAIRS[at + 1]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_those_of_the_standard_library() {
        let around_powers = (0..20).flat_map(|power| {
            let power = 10u64.pow(power);
            [power - 1, power, power + 1]
        });
        for number in around_powers.chain([u64::MAX]) {
            assert_eq!(Decimal::of(number).as_bytes(), number.to_string().as_bytes());
        }
        assert_eq!([two_digits(7), two_digits(42), two_digits(199)], [*b"07", *b"42", *b"99"]);
    }
}
