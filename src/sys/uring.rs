//! placeholder of the skeleton: replaced by the real ring

/// The ring.
#[derive(Debug)]
pub struct Ring;

/// A completion.
#[derive(Clone, Copy, Debug)]
pub struct Cqe;
