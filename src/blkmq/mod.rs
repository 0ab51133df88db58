//! placeholder of the skeleton: the core
