//! How many users and sessions a project has, kept in the transactions that add and
//! erase them, so that nothing is ever counted.

use sea_orm::{
    ActiveValue::Set, DatabaseTransaction, DbBackend, DbErr, ExprTrait, QuerySelect,
    entity::prelude::*, sea_query::OnConflict,
};

use crate::auth::ProjectId;

/// How many shards there are where many connections write: a row that all of them
/// change would make them wait for each other.
const SHARDS: u16 = 16;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "totals")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub project_id: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub shard: i64,
    pub users: i64,
    pub sessions: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// Adds these numbers, which may be negative.
pub(super) async fn add(
    txn: &DatabaseTransaction,
    project: ProjectId,
    users: i64,
    sessions: i64,
) -> Result<(), DbErr> {
    let total = |column| Expr::col((Entity, column));
    Entity::insert(ActiveModel {
        project_id: Set(project.get()),
        shard: Set(shard(txn)),
        users: Set(users),
        sessions: Set(sessions),
    })
    .on_conflict(
        OnConflict::columns([Column::ProjectId, Column::Shard])
            .value(Column::Users, total(Column::Users).add(users))
            .value(Column::Sessions, total(Column::Sessions).add(sessions))
            .to_owned(),
    )
    .exec_without_returning(txn)
    .await?;
    Ok(())
}

fn shard(txn: &DatabaseTransaction) -> i64 {
    match txn.get_database_backend() {
        DbBackend::Sqlite => 0,
        _ => (super::random() % SHARDS).into(),
    }
}

/// How many users the project has.
pub(super) async fn users(db: &impl ConnectionTrait, project: ProjectId) -> Result<i64, DbErr> {
    sum(db, project, Column::Users).await
}

/// How many sessions the project has.
pub(super) async fn sessions(db: &impl ConnectionTrait, project: ProjectId) -> Result<i64, DbErr> {
    sum(db, project, Column::Sessions).await
}

async fn sum(db: &impl ConnectionTrait, project: ProjectId, column: Column) -> Result<i64, DbErr> {
    let rows: Vec<i64> = Entity::find()
        .select_only()
        .column(column)
        .filter(Column::ProjectId.eq(project.get()))
        .into_tuple()
        .all(db)
        .await?;
    Ok(rows.into_iter().sum())
}
