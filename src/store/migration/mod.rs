//! The schema's history. Each migration is applied once, in order, and recorded;
//! none is ever changed after a release.

mod m0001_users_sessions_messages;

use sea_orm::{ConnectionTrait, DatabaseTransaction, DbErr};
use sea_orm_migration::{MigrationTrait, MigratorTrait};

use super::OpenError;

struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(m0001_users_sessions_messages::Migration)]
    }
}

/// Applies what is pending, inside a transaction that the caller holds so that two
/// processes cannot do it at once.
pub(super) async fn apply(txn: &DatabaseTransaction) -> Result<(), OpenError> {
    refuse_newer(txn).await?;
    Ok(Migrator::up(txn, None).await?)
}

/// A database in which a later version of usher has applied migrations that this
/// one does not know.
async fn refuse_newer(db: &impl ConnectionTrait) -> Result<(), OpenError> {
    Migrator::install(db).await?;
    let applied = Migrator::get_migration_models(db).await?;
    let known = Migrator::migrations();
    let unknown = applied.into_iter().find(|row| {
        known
            .iter()
            .all(|migration| migration.name() != row.version)
    });
    match unknown {
        Some(row) => Err(OpenError::Newer(row.version)),
        None => Ok(()),
    }
}

impl From<DbErr> for OpenError {
    fn from(error: DbErr) -> Self {
        Self::Database(error)
    }
}
