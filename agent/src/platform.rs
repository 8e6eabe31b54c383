//! Accounts of real operating systems, each behind [`crate::accounts::Accounts`].

pub mod linux;
