//! The report of DESIGN section 11, its virtual-time part.
