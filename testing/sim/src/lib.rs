//! Virtual-time simulator of whole fleets, with fault plans and checkers.
