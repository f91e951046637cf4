//! The decoder against an independent one.
