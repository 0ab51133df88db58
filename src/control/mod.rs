//! placeholder of the skeleton: the control side
