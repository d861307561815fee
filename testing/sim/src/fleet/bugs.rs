//! Bugs that can be planted in the election core (feature `planted-bugs`).
