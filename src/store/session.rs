//! Sessions: the rows and every statement on them.

use sea_orm::{
    ActiveValue::Set,
    Condition, DatabaseTransaction, DbBackend, ExprTrait, IntoActiveModel, QuerySelect,
    entity::prelude::*,
    sea_query::{OnConflict, Query, SelectStatement},
};

use super::{Rows, Store, fault, message, now, page, scrub, totals, user};
use crate::{
    auth::ProjectId,
    error::{Error, Resource, Result},
    fields::{RequestId, SessionId, UserId},
    metadata::{self, Change, Metadata},
    page::Page,
    pb::session::v1::{OrderBy, Receipt, Session, State},
};

/// A session's row.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "sessions")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub project_id: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub session_id: String,
    pub uuid: Uuid,
    pub revision: i64,
    pub user_id: String,
    pub metadata: Option<Json>,
    pub created_at: i64,
    pub updated_at: i64,
    pub ended_at: Option<i64>,
    pub message_count: i64,
    pub request_id: Option<Uuid>,
    pub request_digest: Option<Vec<u8>>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Model {
    fn etag(&self) -> String {
        super::etag(self.uuid, self.revision)
    }
}

impl From<Model> for Session {
    fn from(row: Model) -> Self {
        Self {
            etag: row.etag(),
            session_id: row.session_id,
            uuid: row.uuid.to_string(),
            user_id: row.user_id,
            metadata: row.metadata.and_then(metadata::to_proto),
            created_at: Some(super::timestamp(row.created_at)),
            updated_at: Some(super::timestamp(row.updated_at)),
            ended_at: row.ended_at.map(super::timestamp),
            message_count: row.message_count,
        }
    }
}

/// A session to be added.
#[derive(Debug)]
pub struct Add {
    /// Where.
    pub project: ProjectId,
    /// Its id.
    pub session_id: SessionId,
    /// Whose it is.
    pub user_id: UserId,
    /// Its metadata.
    pub metadata: Option<Metadata>,
    /// The call's name, if it may be sent again.
    pub request: Option<RequestId>,
}

/// Adds a session, or finds the one that the same call added before.
pub async fn add(store: &Store, session: Add) -> Result<Model> {
    store
        .write(session, |txn, session| Box::pin(insert(txn, session)))
        .await
}

async fn insert(txn: &DatabaseTransaction, session: &Add) -> Result<Model> {
    let now = now();
    let row = Model {
        project_id: session.project.get(),
        session_id: session.session_id.as_str().to_owned(),
        uuid: Uuid::now_v7(),
        revision: 1,
        user_id: session.user_id.as_str().to_owned(),
        metadata: session.metadata.clone().map(Json::from),
        created_at: now,
        updated_at: now,
        ended_at: None,
        message_count: 0,
        request_id: session.request.as_ref().map(|request| request.id),
        request_digest: session
            .request
            .as_ref()
            .map(|request| request.digest.clone()),
    };
    // A conflict is no error to the engine, so that the transaction goes on.
    let inserted = Entity::insert(row.clone().into_active_model())
        .on_conflict(OnConflict::new().do_nothing().to_owned())
        .exec_without_returning(txn)
        .await
        .map_err(|error| {
            if fault::is_foreign_key_violation(&error) {
                Error::NotFound(Resource::User(row.user_id.clone()))
            } else {
                error.into()
            }
        })?;
    if inserted == 1 {
        user::count_sessions(txn, session.project, &row.user_id, 1).await?;
        totals::add(txn, session.project, 0, 1).await?;
        return Ok(row);
    }
    let taken = Resource::Session(row.session_id);
    let Some(request) = &session.request else {
        return Err(Error::AlreadyExists(taken));
    };
    let made = Entity::find()
        .filter(Column::ProjectId.eq(session.project.get()))
        .filter(Column::RequestId.eq(request.id))
        .one(txn)
        .await?;
    let digest = |made: &Model| made.request_digest.clone();
    super::added_before(made, digest, request, taken)
}

/// Reads a session.
pub async fn get(store: &Store, project: ProjectId, session_id: &SessionId) -> Result<Model> {
    find(project, session_id)
        .one(&*store.reader().await?)
        .await?
        .ok_or_else(|| not_found(session_id))
}

/// A change of a session.
#[derive(Debug)]
pub struct Update {
    /// Where.
    pub project: ProjectId,
    /// Which.
    pub session_id: SessionId,
    /// What to do.
    pub change: SessionChange,
    /// The etag that the session must have.
    pub etag: Option<String>,
}

/// What can change in a session.
#[derive(Debug)]
pub enum SessionChange {
    /// Its metadata, while it is active.
    Metadata(Change),
    /// It ends, if it has not ended before.
    End,
}

/// Changes or ends a session.
pub async fn update(store: &Store, update: Update) -> Result<Model> {
    store
        .write(update, |txn, update| Box::pin(change(txn, update)))
        .await
}

async fn change(txn: &DatabaseTransaction, update: &Update) -> Result<Model> {
    let current = lock(txn, update.project, &update.session_id).await?;
    let current = current.ok_or_else(|| not_found(&update.session_id))?;
    super::check_etag(update.etag.as_deref(), &current.etag())?;

    let mut next = current.clone();
    let now = super::now_after(current.updated_at);
    match &update.change {
        SessionChange::Metadata(_) if current.ended_at.is_some() => {
            return Err(Error::SessionEnded(current.session_id));
        }
        SessionChange::Metadata(change) => {
            next.metadata = change.apply(next.metadata)?;
        }
        SessionChange::End => next.ended_at = current.ended_at.or(Some(now)),
    }
    if next == current {
        return Ok(current);
    }
    next.revision += 1;
    next.updated_at = now;

    let written = Entity::update_many()
        .set(ActiveModel {
            metadata: Set(next.metadata.clone()),
            ended_at: Set(next.ended_at),
            revision: Set(next.revision),
            updated_at: Set(next.updated_at),
            ..Default::default()
        })
        .filter(this_state(&current))
        .exec(txn)
        .await?;
    if written.rows_affected == 0 {
        return Err(Error::EtagMismatch);
    }
    Ok(next)
}

/// An erasure of a session.
#[derive(Debug)]
pub struct Delete {
    /// Where.
    pub project: ProjectId,
    /// Which.
    pub session_id: SessionId,
    /// The etag that the session must have.
    pub etag: Option<String>,
    /// Whether a session that does not exist is as good as erased.
    pub allow_missing: bool,
}

/// Erases a session with all its messages.
pub async fn delete(store: &Store, delete: Delete) -> Result<Receipt> {
    let receipt = store
        .write(delete, |txn, delete| Box::pin(erase(txn, delete)))
        .await?;
    store.0.erased.notify_one();
    Ok(receipt)
}

async fn erase(txn: &DatabaseTransaction, delete: &Delete) -> Result<Receipt> {
    let project = delete.project;
    lock_owner(txn, project, &delete.session_id).await?;
    let Some(current) = lock(txn, project, &delete.session_id).await? else {
        return receipt_of_none(delete);
    };
    super::check_etag(delete.etag.as_deref(), &current.etag())?;

    let this = Query::select()
        .expr(Expr::val(current.session_id.as_str()))
        .to_owned();
    let messages_deleted = message::erase(txn, project, this).await?;
    let erased = Entity::delete_many()
        .filter(this_state(&current))
        .exec(txn)
        .await?;
    if erased.rows_affected == 0 {
        return Err(Error::EtagMismatch);
    }
    user::count_sessions(txn, project, &current.user_id, -1).await?;
    totals::add(txn, project, 0, -1).await?;
    scrub::want(txn).await?;
    Ok(receipt(&delete.session_id, messages_deleted))
}

/// The receipt that [`delete`] would give.
pub async fn receipt_for(store: &Store, delete: &Delete) -> Result<Receipt> {
    let found = find(delete.project, &delete.session_id)
        .one(&*store.reader().await?)
        .await?;
    let Some(current) = found else {
        return receipt_of_none(delete);
    };
    super::check_etag(delete.etag.as_deref(), &current.etag())?;
    Ok(receipt(&delete.session_id, current.message_count))
}

fn receipt_of_none(delete: &Delete) -> Result<Receipt> {
    if delete.allow_missing {
        Ok(receipt(&delete.session_id, 0))
    } else {
        Err(not_found(&delete.session_id))
    }
}

fn receipt(session_id: &SessionId, messages_deleted: i64) -> Receipt {
    Receipt {
        session_id: session_id.as_str().to_owned(),
        messages_deleted,
        erased_at: Some(super::timestamp(now())),
    }
}

/// Which sessions to list, and how.
#[derive(Debug)]
pub struct List {
    /// Where.
    pub project: ProjectId,
    /// Only this user's.
    pub user_id: Option<UserId>,
    /// Only those in this state.
    pub state: State,
    /// By what.
    pub order_by: OrderBy,
    /// Whether the smallest comes first.
    pub ascending: bool,
    /// Which part of the list.
    pub page: Page,
}

/// A page of sessions, and how many there are on all pages.
pub async fn list(store: &Store, list: &List) -> Result<(Rows<Session>, i64)> {
    let snapshot = store.snapshot().await?;
    let total = if list.user_id.is_none() && list.state == State::Unspecified {
        totals::sessions(&*snapshot, list.project).await?
    } else {
        super::count(matching(list), &*snapshot).await?
    };
    Ok((rows(&snapshot, list).await?, total))
}

/// A page of the sessions of a user, who must exist, and how many they have.
pub async fn list_of(
    store: &Store,
    project: ProjectId,
    user_id: UserId,
    page: Page,
) -> Result<(Rows<Session>, i64)> {
    let snapshot = store.snapshot().await?;
    let total = user::session_count(&snapshot, project, &user_id).await?;
    let list = List {
        project,
        user_id: Some(user_id),
        state: State::Unspecified,
        order_by: OrderBy::CreatedAt,
        ascending: false,
        page,
    };
    Ok((rows(&snapshot, &list).await?, total))
}

pub(super) fn matching(list: &List) -> Select<Entity> {
    let mut query = Entity::find().filter(Column::ProjectId.eq(list.project.get()));
    if let Some(user_id) = &list.user_id {
        query = query.filter(Column::UserId.eq(user_id.as_str()));
    }
    match list.state {
        State::Unspecified => query,
        State::Active => query.filter(Column::EndedAt.is_null()),
        State::Ended => query.filter(Column::EndedAt.is_not_null()),
    }
}

async fn rows(snapshot: &DatabaseTransaction, list: &List) -> Result<Rows<Session>> {
    let order = order(list);
    let query = page::seek(matching(list), &order, list.ascending, &list.page)?;
    let rows = query.stream(snapshot).await?;
    page::collect(rows, &list.page, |row| page::key(&order, row)).await
}

/// The columns of an order. Each order is an index, in which the project comes first,
/// for all sessions and for each state; a user's sessions, which are few, are sorted
/// unless the index of users has them in order.
pub(super) fn order(list: &List) -> Vec<page::Column<Model>> {
    let by = Column::into_expr;
    let created_at = || page::Column::time(by(Column::CreatedAt), |row: &Model| row.created_at);
    let updated_at = || page::Column::time(by(Column::UpdatedAt), |row: &Model| row.updated_at);
    let session_id = || page::Column::text(by(Column::SessionId), |row: &Model| &row.session_id);
    let user_id = || page::Column::text(by(Column::UserId), |row: &Model| &row.user_id);
    match (list.order_by, &list.user_id) {
        // Sessions of one user are all equal by user.
        (OrderBy::Unspecified | OrderBy::CreatedAt, _) | (OrderBy::UserId, Some(_)) => {
            vec![created_at(), session_id()]
        }
        (OrderBy::UpdatedAt, None) => vec![updated_at(), session_id()],
        (OrderBy::UpdatedAt, Some(_)) => vec![updated_at().unindexed(), session_id()],
        (OrderBy::SessionId, None) => vec![session_id()],
        (OrderBy::SessionId, Some(_)) => vec![session_id().unindexed()],
        (OrderBy::UserId, None) => vec![user_id(), created_at(), session_id()],
    }
}

/// Adds to the number of messages of a session, which is locked.
pub(super) async fn count_messages(
    txn: &DatabaseTransaction,
    project: ProjectId,
    session_id: &SessionId,
    added: i64,
) -> Result<()> {
    Entity::update_many()
        .col_expr(
            Column::MessageCount,
            Column::MessageCount.into_expr().add(added),
        )
        .filter(this(project, session_id))
        .exec(txn)
        .await?;
    Ok(())
}

/// How many messages a session holds, if there is such a session.
pub(super) async fn message_count(
    db: &impl ConnectionTrait,
    project: ProjectId,
    session_id: &SessionId,
) -> Result<i64> {
    find(project, session_id)
        .select_only()
        .column(Column::MessageCount)
        .into_tuple()
        .one(db)
        .await?
        .ok_or_else(|| not_found(session_id))
}

/// How many messages all sessions of a user hold.
pub(super) async fn messages_of(
    db: &DatabaseTransaction,
    project: ProjectId,
    user_id: &UserId,
) -> Result<i64> {
    let sum: Option<Option<i64>> = Entity::find()
        .select_only()
        .expr(Column::MessageCount.into_expr().sum().cast_as("bigint"))
        .filter(of(project, user_id))
        .into_tuple()
        .one(db)
        .await?;
    Ok(sum.flatten().unwrap_or(0))
}

/// The ids of a user's sessions, as a subquery.
pub(super) fn ids_of(project: ProjectId, user_id: &UserId) -> SelectStatement {
    Query::select()
        .column(Column::SessionId)
        .from(Entity)
        .cond_where(of(project, user_id))
        .to_owned()
}

/// Keeps others from adding to a user's sessions that are about to be erased. On SQLite
/// nobody else writes.
pub(super) async fn lock_of(
    txn: &DatabaseTransaction,
    project: ProjectId,
    user_id: &UserId,
) -> Result<()> {
    if txn.get_database_backend() == DbBackend::Sqlite {
        return Ok(());
    }
    let _: Vec<String> = Entity::find()
        .select_only()
        .column(Column::SessionId)
        .filter(of(project, user_id))
        .lock_exclusive()
        .into_tuple()
        .all(txn)
        .await?;
    Ok(())
}

/// Locks a session's user before the session itself is locked: the order of an erasure of
/// the user, so that neither waits for the other. On SQLite nobody else writes.
async fn lock_owner(
    txn: &DatabaseTransaction,
    project: ProjectId,
    session_id: &SessionId,
) -> Result<()> {
    if txn.get_database_backend() == DbBackend::Sqlite {
        return Ok(());
    }
    let owner: Option<String> = find(project, session_id)
        .select_only()
        .column(Column::UserId)
        .into_tuple()
        .one(txn)
        .await?;
    match owner {
        Some(user_id) => user::lock_row(txn, project, &user_id).await,
        None => Ok(()),
    }
}

/// Erases a user's sessions, whose messages are gone: how many there were.
pub(super) async fn erase_of(
    txn: &DatabaseTransaction,
    project: ProjectId,
    user_id: &UserId,
) -> Result<i64> {
    let erased = Entity::delete_many()
        .filter(of(project, user_id))
        .exec(txn)
        .await?;
    Ok(super::rows(erased.rows_affected))
}

fn of(project: ProjectId, user_id: &UserId) -> Condition {
    Condition::all()
        .add(Column::ProjectId.eq(project.get()))
        .add(Column::UserId.eq(user_id.as_str()))
}

fn this(project: ProjectId, session_id: &SessionId) -> Condition {
    Condition::all()
        .add(Column::ProjectId.eq(project.get()))
        .add(Column::SessionId.eq(session_id.as_str()))
}

fn find(project: ProjectId, session_id: &SessionId) -> Select<Entity> {
    Entity::find().filter(this(project, session_id))
}

/// Reads a row that is about to change, and keeps others from changing it.
pub(super) async fn lock(
    txn: &DatabaseTransaction,
    project: ProjectId,
    session_id: &SessionId,
) -> Result<Option<Model>> {
    Ok(find(project, session_id).lock_exclusive().one(txn).await?)
}

/// The row, if nobody changed it since it was read.
fn this_state(row: &Model) -> Condition {
    Condition::all()
        .add(Column::ProjectId.eq(row.project_id))
        .add(Column::SessionId.eq(row.session_id.as_str()))
        .add(Column::Uuid.eq(row.uuid))
        .add(Column::Revision.eq(row.revision))
}

pub(super) fn not_found(session_id: &SessionId) -> Error {
    Error::NotFound(Resource::Session(session_id.as_str().to_owned()))
}
