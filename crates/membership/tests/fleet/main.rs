//! Whole fleets of membership cores in virtual time.

#[cfg(test)]
mod checks;
#[cfg(test)]
mod detection;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod network;
#[cfg(test)]
mod one_name;
#[cfg(test)]
mod recovery;
#[cfg(test)]
mod replicas;
mod rings;
#[cfg(test)]
mod soak;
