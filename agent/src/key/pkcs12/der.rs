//! As much of DER (X.690) as a PKCS#12 file needs: one element after the other, whose tags are known beforehand.

use super::Error;

pub(super) const INTEGER: u8 = 0x02;
pub(super) const OCTETS: u8 = 0x04;
pub(super) const NULL: u8 = 0x05;
pub(super) const OID: u8 = 0x06;
pub(super) const SEQUENCE: u8 = 0x30;
/// `[0]` around an element.
pub(super) const EXPLICIT_0: u8 = 0xa0;
/// `[0]` in place of a tag.
pub(super) const IMPLICIT_0: u8 = 0x80;

/// Elements that are not read yet.
#[derive(Clone, Copy)]
pub(super) struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the next element has this tag.
    pub(super) fn is_next(&self, tag: u8) -> bool {
        self.0.first() == Some(&tag)
    }

    /// The content of the next element, which must have this tag.
    pub(super) fn next(&mut self, tag: u8) -> Result<&'a [u8], Error> {
        self.split(tag).map(|(_, content)| content)
    }

    /// The next element, which must have this tag, with its tag and length.
    pub(super) fn whole(&mut self, tag: u8) -> Result<&'a [u8], Error> {
        self.split(tag).map(|(whole, _)| whole)
    }

    /// The elements in the next one, which must have this tag.
    pub(super) fn inside(&mut self, tag: u8) -> Result<Self, Error> {
        self.next(tag).map(Self)
    }

    /// A number that fits.
    pub(super) fn number(&mut self) -> Result<u32, Error> {
        match self.next(INTEGER)? {
            bytes @ ([0..=0x7f] | [0..=0x7f, _, ..]) if bytes.len() <= 5 => {
                let value = bytes.iter().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
                u32::try_from(value).map_err(|_| Error::Syntax)
            }
            _ => Err(Error::Syntax),
        }
    }

    fn split(&mut self, tag: u8) -> Result<(&'a [u8], &'a [u8]), Error> {
        let (&[found, first], _) = self.0.split_first_chunk().ok_or(Error::Syntax)?;
        if found != tag {
            return Err(Error::Syntax);
        }
        let (header, length) = match first {
            0..=0x7f => (2, usize::from(first)),
            // Up to 16 MB. 0x80 is a length that is not known beforehand, which DER does not have.
            0x81..=0x83 => {
                let count = usize::from(first & 0x7f);
                let bytes = self.0.get(2..2 + count).ok_or(Error::Syntax)?;
                (2 + count, bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)))
            }
            _ => return Err(Error::Syntax),
        };
        let (whole, rest) = self.0.split_at_checked(header + length).ok_or(Error::Syntax)?;
        self.0 = rest;
        Ok((whole, whole.get(header..).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_read_to_their_ends_and_no_further() {
        let mut der = Der::new(&[0x30, 3, 0x02, 1, 7, 0x04, 0x81, 1, 9]);
        assert!(der.is_next(SEQUENCE));
        assert_eq!(der.inside(SEQUENCE).unwrap().number(), Ok(7));
        assert_eq!(der.next(OCTETS), Ok(&[9][..]));
        assert!(der.is_empty() && der.next(OCTETS).is_err());
        for bad in [
            &[0x30][..],
            &[0x30, 1],
            &[0x30, 0x80, 0, 0],
            &[0x30, 0x82, 1],
            &[0x30, 0x84, 0, 0, 0, 0],
            &[4, 0],
        ] {
            assert!(Der::new(bad).next(SEQUENCE).is_err(), "{bad:?}");
        }
        for (bytes, value) in [
            (&[2, 1, 0][..], Some(0)),
            (&[2, 2, 8, 0], Some(2048)),
            (&[2, 5, 0, 255, 255, 255, 255], Some(u32::MAX)),
        ] {
            assert_eq!(Der::new(bytes).number().ok(), value);
        }
        for bad in [&[2, 0][..], &[2, 1, 0x80], &[2, 5, 1, 0, 0, 0, 0], &[2, 6, 0, 0, 0, 0, 0, 1]] {
            assert!(Der::new(bad).number().is_err(), "{bad:?}");
        }
    }
}
