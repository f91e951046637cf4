//! Options as an opener or a compile call receives them: keys and values as text.

use super::slice_at;
use crate::{Error, Result, ffi};
use alloc::format;
use alloc::vec::Vec;

/// Options of a call, borrowed for `'a`.
#[derive(Clone, Debug, Default)]
pub struct Options<'a> {
    pairs: Vec<(&'a str, &'a str)>,
}

impl<'a> Options<'a> {
    /// Options that are at hand as pairs.
    pub fn from_pairs(pairs: &[(&'a str, &'a str)]) -> Options<'a> {
        Options { pairs: pairs.to_vec() }
    }

    /// Reads `count` options at `options`.
    ///
    /// # Safety
    /// `options` points at `count` pointers to readable options (or `count` is 0) that stay unchanged for `'a`.
    pub unsafe fn new(options: *const *const ffi::KeyValue, count: u32) -> Result<Options<'a>> {
        // SAFETY: the caller vouches for the array.
        let options = unsafe { slice_at(options, count as usize) };
        let mut pairs = Vec::with_capacity(options.len());
        for &option in options {
            // SAFETY: the caller vouches for each option.
            let option = unsafe { option.as_ref() }.ok_or_else(|| Error::invalid("an option is NULL"))?;
            // SAFETY: likewise for its texts.
            let (key, value) = unsafe { (option.key.as_str(), option.value.as_str()) };
            match (key, value) {
                (Some(key), Some(value)) => pairs.push((key, value)),
                _ => return Err(Error::invalid("an option's key or value is not UTF-8")),
            }
        }
        Ok(Options { pairs })
    }

    /// The value of `key`; the last one wins.
    pub fn get(&self, key: &str) -> Option<&'a str> {
        self.pairs.iter().rev().find(|(k, _)| *k == key).map(|(_, value)| *value)
    }

    /// Keys and values in the order given.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a str)> + '_ {
        self.pairs.iter().copied()
    }

    /// Fails on a key that is not among `known`, and lists those.
    pub fn check_keys(&self, known: &[&str]) -> Result<()> {
        match self.pairs.iter().find(|(key, _)| !known.contains(key)) {
            None => Ok(()),
            Some((key, _)) if known.is_empty() => {
                Err(Error::invalid(format!("unknown option '{key}': there are no options")))
            }
            Some((key, _)) => {
                Err(Error::invalid(format!("unknown option '{key}': known options are {}", known.join(", "))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_lists_the_known_ones() {
        let options = Options::from_pairs(&[("threads", "4"), ("thraeds", "5")]);
        assert_eq!(options.get("threads"), Some("4"));
        let error = options.check_keys(&["threads", "arena"]).unwrap_err();
        assert_eq!(error.message, "unknown option 'thraeds': known options are threads, arena");
    }

    #[test]
    fn the_last_of_equal_keys_wins() {
        assert_eq!(Options::from_pairs(&[("a", "1"), ("a", "2")]).get("a"), Some("2"));
    }
}
