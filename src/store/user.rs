//! Users: the rows and every statement on them.

use sea_orm::{
    ActiveValue::Set, DatabaseTransaction, ExprTrait, IntoActiveModel, QuerySelect,
    entity::prelude::*, sea_query::OnConflict,
};

use super::{Rows, Store, message, now, page, scrub, session, totals};
use crate::{
    auth::ProjectId,
    error::{Error, Resource, Result},
    fields::{RequestId, UserId},
    metadata::{self, Change, Metadata},
    page::Page,
    pb::user::v1::{OrderBy, Receipt, User},
};

/// A user's row.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "users")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub project_id: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub user_id: String,
    pub uuid: Uuid,
    pub revision: i64,
    pub email: Option<String>,
    pub first_name: Option<String>,
    pub last_name: Option<String>,
    pub metadata: Option<Json>,
    pub created_at: i64,
    pub updated_at: i64,
    pub session_count: i64,
    pub request_id: Option<Uuid>,
    pub request_digest: Option<Vec<u8>>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Model {
    /// The uuid tells a user from another one that had the id before.
    fn etag(&self) -> String {
        super::etag(self.uuid, self.revision)
    }
}

impl From<Model> for User {
    fn from(row: Model) -> Self {
        Self {
            etag: row.etag(),
            user_id: row.user_id,
            uuid: row.uuid.to_string(),
            email: row.email,
            first_name: row.first_name,
            last_name: row.last_name,
            metadata: row.metadata.and_then(metadata::to_proto),
            created_at: Some(super::timestamp(row.created_at)),
            updated_at: Some(super::timestamp(row.updated_at)),
            session_count: row.session_count,
        }
    }
}

/// A user to be added.
#[derive(Debug)]
pub struct Add {
    /// Where.
    pub project: ProjectId,
    /// Its id.
    pub user_id: UserId,
    /// Its e-mail.
    pub email: Option<String>,
    /// Its first name.
    pub first_name: Option<String>,
    /// Its last name.
    pub last_name: Option<String>,
    /// Its metadata.
    pub metadata: Option<Metadata>,
    /// The call's name, if it may be sent again.
    pub request: Option<RequestId>,
}

/// Adds a user, or finds the one that the same call added before.
pub async fn add(store: &Store, user: Add) -> Result<Model> {
    store
        .write(user, |txn, user| Box::pin(insert(txn, user)))
        .await
}

async fn insert(txn: &DatabaseTransaction, user: &Add) -> Result<Model> {
    let now = now();
    let row = Model {
        project_id: user.project.get(),
        user_id: user.user_id.as_str().to_owned(),
        uuid: Uuid::now_v7(),
        revision: 1,
        email: user.email.clone(),
        first_name: user.first_name.clone(),
        last_name: user.last_name.clone(),
        metadata: user.metadata.clone().map(Json::from),
        created_at: now,
        updated_at: now,
        session_count: 0,
        request_id: user.request.as_ref().map(|request| request.id),
        request_digest: user.request.as_ref().map(|request| request.digest.clone()),
    };
    // A conflict is no error to the engine, so that the transaction goes on.
    let inserted = Entity::insert(row.clone().into_active_model())
        .on_conflict(OnConflict::new().do_nothing().to_owned())
        .exec_without_returning(txn)
        .await?;
    if inserted == 1 {
        totals::add(txn, user.project, 1, 0).await?;
        return Ok(row);
    }
    let taken = Resource::User(row.user_id);
    let Some(request) = &user.request else {
        return Err(Error::AlreadyExists(taken));
    };
    let made = Entity::find()
        .filter(Column::ProjectId.eq(user.project.get()))
        .filter(Column::RequestId.eq(request.id))
        .one(txn)
        .await?;
    let digest = |made: &Model| made.request_digest.clone();
    super::added_before(made, digest, request, taken)
}

/// Reads a user.
pub async fn get(store: &Store, project: ProjectId, user_id: &UserId) -> Result<Model> {
    find(project, user_id)
        .one(&*store.reader().await?)
        .await?
        .ok_or_else(|| not_found(user_id))
}

/// A change of a user.
#[derive(Debug)]
pub struct Update {
    /// Where.
    pub project: ProjectId,
    /// Whose.
    pub user_id: UserId,
    /// The new e-mail, if it is to change; `Some(None)` clears it.
    pub email: Option<Option<String>>,
    /// The new first name, likewise.
    pub first_name: Option<Option<String>>,
    /// The new last name, likewise.
    pub last_name: Option<Option<String>>,
    /// What to do with the metadata.
    pub metadata: Change,
    /// The etag that the user must have.
    pub etag: Option<String>,
}

/// Changes a user.
pub async fn update(store: &Store, update: Update) -> Result<Model> {
    store
        .write(update, |txn, update| Box::pin(change(txn, update)))
        .await
}

async fn change(txn: &DatabaseTransaction, update: &Update) -> Result<Model> {
    let current = lock(txn, update.project, &update.user_id).await?;
    let current = current.ok_or_else(|| not_found(&update.user_id))?;
    super::check_etag(update.etag.as_deref(), &current.etag())?;

    let mut next = current.clone();
    for (field, new) in [
        (&mut next.email, &update.email),
        (&mut next.first_name, &update.first_name),
        (&mut next.last_name, &update.last_name),
    ] {
        if let Some(new) = new {
            field.clone_from(new);
        }
    }
    next.metadata = update.metadata.apply(next.metadata)?;
    if next == current {
        return Ok(current);
    }
    next.revision += 1;
    next.updated_at = super::now_after(current.updated_at);

    let written = Entity::update_many()
        .set(ActiveModel {
            email: Set(next.email.clone()),
            first_name: Set(next.first_name.clone()),
            last_name: Set(next.last_name.clone()),
            metadata: Set(next.metadata.clone()),
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

/// An erasure of a user.
#[derive(Debug)]
pub struct Delete {
    /// Where.
    pub project: ProjectId,
    /// Whose.
    pub user_id: UserId,
    /// The etag that the user must have.
    pub etag: Option<String>,
    /// Whether a user that does not exist is as good as erased.
    pub allow_missing: bool,
}

/// Erases a user with all their sessions and messages.
pub async fn delete(store: &Store, delete: Delete) -> Result<Receipt> {
    let receipt = store
        .write(delete, |txn, delete| Box::pin(erase(txn, delete)))
        .await?;
    store.0.erased.notify_one();
    Ok(receipt)
}

async fn erase(txn: &DatabaseTransaction, delete: &Delete) -> Result<Receipt> {
    let project = delete.project;
    let Some(current) = lock(txn, project, &delete.user_id).await? else {
        return receipt_of_nobody(delete);
    };
    super::check_etag(delete.etag.as_deref(), &current.etag())?;

    session::lock_of(txn, project, &delete.user_id).await?;
    let sessions = session::ids_of(project, &delete.user_id);
    let messages_deleted = message::erase(txn, project, sessions).await?;
    let sessions_deleted = session::erase_of(txn, project, &delete.user_id).await?;
    let erased = Entity::delete_many()
        .filter(this_state(&current))
        .exec(txn)
        .await?;
    if erased.rows_affected == 0 {
        return Err(Error::EtagMismatch);
    }
    totals::add(txn, project, -1, -sessions_deleted).await?;
    scrub::want(txn).await?;
    Ok(receipt(&delete.user_id, sessions_deleted, messages_deleted))
}

/// The receipt that [`delete`] would give.
pub async fn receipt_for(store: &Store, delete: &Delete) -> Result<Receipt> {
    let snapshot = store.snapshot().await?;
    let found = find(delete.project, &delete.user_id)
        .one(&*snapshot)
        .await?;
    let Some(current) = found else {
        return receipt_of_nobody(delete);
    };
    super::check_etag(delete.etag.as_deref(), &current.etag())?;
    let messages = session::messages_of(&snapshot, delete.project, &delete.user_id).await?;
    Ok(receipt(&delete.user_id, current.session_count, messages))
}

fn receipt_of_nobody(delete: &Delete) -> Result<Receipt> {
    if delete.allow_missing {
        Ok(receipt(&delete.user_id, 0, 0))
    } else {
        Err(not_found(&delete.user_id))
    }
}

fn receipt(user_id: &UserId, sessions_deleted: i64, messages_deleted: i64) -> Receipt {
    Receipt {
        user_id: user_id.as_str().to_owned(),
        sessions_deleted,
        messages_deleted,
        erased_at: Some(super::timestamp(now())),
    }
}

/// Which users to list, and how.
#[derive(Debug)]
pub struct List {
    /// Where.
    pub project: ProjectId,
    /// Only those with this e-mail.
    pub email: Option<String>,
    /// By what.
    pub order_by: OrderBy,
    /// Whether the smallest comes first.
    pub ascending: bool,
    /// Which part of the list.
    pub page: Page,
}

/// A page of users, and how many there are on all pages.
pub async fn list(store: &Store, list: &List) -> Result<(Rows<User>, i64)> {
    let snapshot = store.snapshot().await?;
    let total = match list.email {
        None => totals::users(&*snapshot, list.project).await?,
        Some(_) => super::count(matching(list), &*snapshot).await?,
    };
    let order = order(list);
    let query = page::seek(matching(list), &order, list.ascending, &list.page)?;
    let rows = query.stream(&*snapshot).await?;
    let rows = page::collect(rows, &list.page, |row| page::key(&order, row)).await?;
    Ok((rows, total))
}

pub(super) fn matching(list: &List) -> Select<Entity> {
    let query = Entity::find().filter(Column::ProjectId.eq(list.project.get()));
    match &list.email {
        None => query,
        // The first is what the index knows, the second tells empty from absent.
        Some(email) => query
            .filter(email_key().eq(email.as_str()))
            .filter(Column::Email.eq(email.as_str())),
    }
}

/// The columns of an order. Each order is an index, in which the project comes first;
/// an e-mail's users, which are few, are sorted unless the index of e-mails has them in
/// order.
pub(super) fn order(list: &List) -> Vec<page::Column<Model>> {
    let by = Column::into_expr;
    let created_at = || page::Column::time(by(Column::CreatedAt), |row: &Model| row.created_at);
    let updated_at = || page::Column::time(by(Column::UpdatedAt), |row: &Model| row.updated_at);
    let user_id = || page::Column::text(by(Column::UserId), |row: &Model| &row.user_id);
    let email = || {
        page::Column::text(email_key(), |row: &Model| {
            row.email.as_deref().unwrap_or_default()
        })
    };
    match (list.order_by, &list.email) {
        // Users with one e-mail are all equal by e-mail.
        (OrderBy::Unspecified | OrderBy::CreatedAt, _) | (OrderBy::Email, Some(_)) => {
            vec![created_at(), user_id()]
        }
        (OrderBy::UpdatedAt, None) => vec![updated_at(), user_id()],
        (OrderBy::UpdatedAt, Some(_)) => vec![updated_at().unindexed(), user_id()],
        (OrderBy::UserId, None) => vec![user_id()],
        (OrderBy::UserId, Some(_)) => vec![user_id().unindexed()],
        (OrderBy::Email, None) => vec![email(), created_at(), user_id()],
    }
}

/// The e-mail as it is ordered: absent as empty. The engine generates it.
fn email_key() -> Expr {
    Expr::col((Entity, "email_key"))
}

/// Adds to the number of sessions that a user has.
pub(super) async fn count_sessions(
    txn: &DatabaseTransaction,
    project: ProjectId,
    user_id: &str,
    change: i64,
) -> Result<()> {
    Entity::update_many()
        .col_expr(
            Column::SessionCount,
            Column::SessionCount.into_expr().add(change),
        )
        .filter(Column::ProjectId.eq(project.get()))
        .filter(Column::UserId.eq(user_id))
        .exec(txn)
        .await?;
    Ok(())
}

/// Keeps others from changing a user, or from adding sessions to them.
pub(super) async fn lock_row(
    txn: &DatabaseTransaction,
    project: ProjectId,
    user_id: &str,
) -> Result<()> {
    let _: Option<String> = Entity::find_by_id((project.get(), user_id.to_owned()))
        .select_only()
        .column(Column::UserId)
        .lock_exclusive()
        .into_tuple()
        .one(txn)
        .await?;
    Ok(())
}

/// How many sessions a user has, if there is such a user.
pub(super) async fn session_count(
    snapshot: &DatabaseTransaction,
    project: ProjectId,
    user_id: &UserId,
) -> Result<i64> {
    find(project, user_id)
        .select_only()
        .column(Column::SessionCount)
        .into_tuple()
        .one(snapshot)
        .await?
        .ok_or_else(|| not_found(user_id))
}

fn find(project: ProjectId, user_id: &UserId) -> Select<Entity> {
    Entity::find_by_id((project.get(), user_id.as_str().to_owned()))
}

/// Reads a row that is about to change, and keeps others from changing it.
async fn lock(
    txn: &DatabaseTransaction,
    project: ProjectId,
    user_id: &UserId,
) -> Result<Option<Model>> {
    Ok(find(project, user_id).lock_exclusive().one(txn).await?)
}

/// The row, if nobody changed it since it was read.
fn this_state(row: &Model) -> sea_orm::Condition {
    sea_orm::Condition::all()
        .add(Column::ProjectId.eq(row.project_id))
        .add(Column::UserId.eq(row.user_id.as_str()))
        .add(Column::Uuid.eq(row.uuid))
        .add(Column::Revision.eq(row.revision))
}

fn not_found(user_id: &UserId) -> Error {
    Error::NotFound(Resource::User(user_id.as_str().to_owned()))
}
