//! The README's lines, as typed.
