//! Who is calling, and what they may do.

use crate::error::{Error, Result};

/// A project: the wall between callers. Every row belongs to one, and a caller
/// sees only its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProjectId(i64);

impl ProjectId {
    /// The one project that there is without authentication.
    pub const DEFAULT: Self = Self(1);

    /// The number that stands in every row of the project.
    pub fn get(self) -> i64 {
        self.0
    }
}

/// What a caller may do. Each role may do all that the ones before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Every Get and List.
    Reader,
    /// Also Add, Update, End, `AddMessages` and `UpdateMessage`.
    Writer,
    /// Also Delete.
    Admin,
}

/// Who is calling.
#[derive(Clone, Debug)]
pub struct Caller {
    project: ProjectId,
    role: Role,
}

impl Caller {
    /// Whoever reaches a server without authentication: everything, in the
    /// `default` project.
    pub fn anyone() -> Self {
        Self {
            project: ProjectId::DEFAULT,
            role: Role::Admin,
        }
    }

    /// Somebody in a project of a unit test's own.
    #[cfg(test)]
    pub fn of(project: i64, role: Role) -> Self {
        Self {
            project: ProjectId(project),
            role,
        }
    }

    /// The caller's project, if their role is at least `role`. There is no other
    /// way to the project, so no rule can forget to ask.
    pub fn project_as(&self, role: Role) -> Result<ProjectId> {
        if self.role >= role {
            Ok(self.project)
        } else {
            Err(Error::PermissionDenied)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_may_do_what_lesser_roles_may_and_no_more() {
        let roles = [Role::Reader, Role::Writer, Role::Admin];
        for (held, role) in roles.into_iter().enumerate() {
            let caller = Caller::of(7, role);
            for (asked, wanted) in roles.into_iter().enumerate() {
                let project = caller.project_as(wanted);
                if held >= asked {
                    assert_eq!(project.unwrap(), ProjectId(7));
                } else {
                    assert!(matches!(project, Err(Error::PermissionDenied)));
                }
            }
        }
    }
}
