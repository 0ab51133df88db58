//! placeholder of the skeleton: replaced by the real config space

/// The device's config space.
#[derive(Debug)]
pub struct ConfigSpace;
