//! The schema's history. Each migration is applied once, in order, and recorded;
//! none is ever changed after a release.

mod m0001_users_sessions_messages;

use sea_orm::{DatabaseTransaction, EntityName, EntityTrait};
use sea_orm_migration::{MigrationTrait, MigratorTrait, SchemaManager, seaql_migrations};

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

/// Refuses a database to which something would have to be applied.
pub(super) async fn check(txn: &DatabaseTransaction) -> Result<(), OpenError> {
    refuse_newer(txn).await?;
    let pending = Migrator::get_pending_migrations_read_only(txn).await?;
    match pending.first() {
        Some(migration) => Err(OpenError::Older(migration.name().to_owned())),
        None => Ok(()),
    }
}

/// A database in which a later version of usher has applied migrations that this
/// one does not know.
async fn refuse_newer(txn: &DatabaseTransaction) -> Result<(), OpenError> {
    let record = seaql_migrations::Entity.table_name();
    if !SchemaManager::new(txn).has_table(record).await? {
        return Ok(());
    }
    let applied = seaql_migrations::Entity::find().all(txn).await?;
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
