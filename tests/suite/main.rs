//! Black-box tests: each starts the real program on a port and a database of its
//! own, and calls it with generated clients.

#![cfg(test)]

mod conformance;
mod crash;
mod erasure;
mod faults;
mod health;
mod hostile;
mod postgres;
mod program;
mod properties;
mod reflection;
mod support;
