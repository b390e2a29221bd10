//! Field masks of updates.

use prost_types::FieldMask;

use crate::{
    fields::Violations,
    metadata::{Change, Metadata},
};

/// Which fields an update replaces (<https://google.aip.dev/134>).
pub enum Mask {
    /// No mask: those that are present, and metadata is merged.
    Present,
    /// Exactly these.
    Named(Vec<String>),
    /// `*`: all of them.
    All,
}

impl Mask {
    /// Takes a mask of fields that may change.
    pub fn parse(
        violations: &mut Violations,
        mask: Option<FieldMask>,
        mutable: &[&str],
    ) -> Option<Self> {
        let paths = mask.unwrap_or_default().paths;
        if paths.is_empty() {
            return Some(Self::Present);
        }
        if paths == ["*"] {
            return Some(Self::All);
        }
        let known = paths.iter().all(|path| mutable.contains(&path.as_str()));
        if !known {
            violations.add(
                "update_mask",
                format!("must name only {}, or be *", mutable.join(", ")),
            );
            return None;
        }
        Some(Self::Named(paths))
    }

    fn names(&self, field: &str) -> bool {
        match self {
            Self::Present => false,
            Self::Named(paths) => paths.iter().any(|path| path == field),
            Self::All => true,
        }
    }

    /// The new value of a field, if it is to change.
    pub fn value<T>(&self, field: &str, value: Option<T>) -> Option<Option<T>> {
        match self {
            Self::Present => value.map(Some),
            _ => self.names(field).then_some(value),
        }
    }

    /// What happens to metadata.
    pub fn metadata(&self, value: Option<Metadata>) -> Change {
        match (self, value) {
            (Self::Present, None) => Change::Keep,
            (Self::Present, Some(patch)) => Change::Merge(patch),
            (_, value) if self.names("metadata") => Change::Replace(value),
            _ => Change::Keep,
        }
    }
}
