//! Azure's services behind the ports.
