//! Messages: the rows and every statement on them, and the record of the calls that
//! added them.

use sea_orm::{
    ActiveValue::Set, Condition, DatabaseTransaction, IntoActiveModel, QueryOrder, QuerySelect,
    entity::prelude::*, sea_query::SelectStatement,
};

use super::{Rows, Store, now, page, session};
use crate::{
    auth::ProjectId,
    error::{Error, Resource, Result},
    fields::{RequestId, SessionId},
    metadata::{self, Change, Metadata},
    page::{Page, Part, Start, foreign_token},
    pb::session::v1::Message,
};

/// A message's row.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "messages")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub project_id: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub session_id: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub sequence: i64,
    pub message_id: Uuid,
    pub role: i32,
    pub name: Option<String>,
    pub content: String,
    pub metadata: Option<Json>,
    pub created_at: i64,
    pub updated_at: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl From<Model> for Message {
    fn from(row: Model) -> Self {
        Self {
            message_id: row.message_id.to_string(),
            sequence: row.sequence,
            role: row.role,
            name: row.name,
            content: row.content,
            metadata: row.metadata.and_then(metadata::to_proto),
            created_at: Some(super::timestamp(row.created_at)),
            updated_at: Some(super::timestamp(row.updated_at)),
        }
    }
}

/// The calls that added messages under a `request_id`.
mod request {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "message_requests")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub project_id: i64,
        #[sea_orm(primary_key, auto_increment = false)]
        pub request_id: Uuid,
        pub request_digest: Vec<u8>,
        pub session_id: String,
        pub first_sequence: i64,
        pub last_sequence: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Messages to be added.
#[derive(Debug)]
pub struct Add {
    /// Where.
    pub project: ProjectId,
    /// To which session.
    pub session_id: SessionId,
    /// In their order.
    pub messages: Vec<New>,
    /// The call's name, if it may be sent again.
    pub request: Option<RequestId>,
}

/// A message to be added.
#[derive(Debug)]
pub struct New {
    /// The number of its role.
    pub role: i32,
    /// Its speaker's name.
    pub name: Option<String>,
    /// What is said.
    pub content: String,
    /// Its metadata.
    pub metadata: Option<Metadata>,
}

/// Adds messages, or finds those that the same call added before.
pub async fn add(store: &Store, messages: Add) -> Result<Vec<Model>> {
    store
        .write(messages, |txn, messages| Box::pin(insert(txn, messages)))
        .await
}

async fn insert(txn: &DatabaseTransaction, add: &Add) -> Result<Vec<Model>> {
    // From here on nobody else adds to it, ends it, or erases it.
    let session = session::lock(txn, add.project, &add.session_id).await?;
    let session = session.ok_or_else(|| session::not_found(&add.session_id))?;
    if let Some(added) = added_before(txn, add).await? {
        return Ok(added);
    }
    if session.ended_at.is_some() {
        return Err(Error::SessionEnded(session.session_id));
    }
    let count = super::rows(add.messages.len() as u64);
    session::count_messages(txn, add.project, &add.session_id, count).await?;
    let (first, last) = (session.message_count + 1, session.message_count + count);
    let now = now();
    let rows: Vec<Model> = (first..)
        .zip(&add.messages)
        .map(|(sequence, message)| Model {
            project_id: add.project.get(),
            session_id: add.session_id.as_str().to_owned(),
            sequence,
            message_id: Uuid::now_v7(),
            role: message.role,
            name: message.name.clone(),
            content: message.content.clone(),
            metadata: message.metadata.clone().map(Json::from),
            created_at: now,
            updated_at: now,
        })
        .collect();
    let inserted = rows.iter().cloned();
    Entity::insert_many(inserted.map(IntoActiveModel::into_active_model))
        .exec_without_returning(txn)
        .await?;
    if let Some(request) = &add.request {
        request::Entity::insert(request::ActiveModel {
            project_id: Set(add.project.get()),
            request_id: Set(request.id),
            request_digest: Set(request.digest.clone()),
            session_id: Set(add.session_id.as_str().to_owned()),
            first_sequence: Set(first),
            last_sequence: Set(last),
        })
        .exec_without_returning(txn)
        .await?;
    }
    Ok(rows)
}

async fn added_before(txn: &DatabaseTransaction, add: &Add) -> Result<Option<Vec<Model>>> {
    let Some(request) = &add.request else {
        return Ok(None);
    };
    let made = request::Entity::find_by_id((add.project.get(), request.id))
        .one(txn)
        .await?;
    let Some(made) = made else {
        return Ok(None);
    };
    if made.request_digest != request.digest {
        let asked = Resource::Session(add.session_id.as_str().to_owned());
        return Err(Error::RequestIdReused(asked));
    }
    let messages = Entity::find()
        .filter(of(add.project, &add.session_id))
        .filter(Column::Sequence.between(made.first_sequence, made.last_sequence))
        .order_by_asc(Column::Sequence)
        .all(txn)
        .await?;
    Ok(Some(messages))
}

/// Which messages to list.
#[derive(Debug)]
pub struct List {
    /// Where.
    pub project: ProjectId,
    /// Of which session.
    pub session_id: SessionId,
    /// Only the last so many.
    pub last_n: Option<u64>,
    /// Which part of the list. Its keys are two sequences: of the last message that
    /// was given, and of the last one to give.
    pub page: Page,
}

/// A page of messages, oldest first, and how many the session holds.
pub async fn list(store: &Store, list: &List) -> Result<(Rows<Message>, i64)> {
    let snapshot = store.snapshot().await?;
    let total = session::message_count(&*snapshot, list.project, &list.session_id).await?;
    let (after, until) = match (&list.page.start, list.last_n) {
        (Start::After(key), _) => match key[..] {
            [Part::Number(after), Part::Number(until)] => (after, until),
            _ => return Err(foreign_token()),
        },
        (_, None) => (0, i64::MAX),
        (_, Some(last_n)) => (total.saturating_sub_unsigned(last_n).max(0), total),
    };
    let rows = Entity::find()
        .filter(of(list.project, &list.session_id))
        .filter(Column::Sequence.gt(after))
        .filter(Column::Sequence.lte(until))
        .order_by_asc(Column::Sequence)
        .limit(list.page.size + 1)
        .stream(&*snapshot)
        .await?;
    let key = |row: &Model| vec![Part::Number(row.sequence), Part::Number(until)];
    let rows = page::collect(rows, &list.page, key).await?;
    Ok((rows, total))
}

/// Reads a message.
pub async fn get(
    store: &Store,
    project: ProjectId,
    session_id: &SessionId,
    message_id: Uuid,
) -> Result<Model> {
    let reader = &*store.reader().await?;
    match find(project, session_id, message_id).one(reader).await? {
        Some(message) => Ok(message),
        None => Err(not_found(reader, project, session_id, message_id).await),
    }
}

/// A change of a message's metadata.
#[derive(Debug)]
pub struct Update {
    /// Where.
    pub project: ProjectId,
    /// In which session.
    pub session_id: SessionId,
    /// Which.
    pub message_id: Uuid,
    /// What to merge into its metadata.
    pub metadata: Metadata,
}

/// Merges into a message's metadata.
pub async fn update(store: &Store, update: Update) -> Result<Model> {
    store
        .write(update, |txn, update| Box::pin(change(txn, update)))
        .await
}

async fn change(txn: &DatabaseTransaction, update: &Update) -> Result<Model> {
    let (project, session_id, message_id) = (update.project, &update.session_id, update.message_id);
    let found = find(project, session_id, message_id)
        .lock_exclusive()
        .one(txn)
        .await?;
    let Some(current) = found else {
        return Err(not_found(txn, project, session_id, message_id).await);
    };
    let patch = Change::Merge(update.metadata.clone());
    let mut next = current.clone();
    next.metadata = patch.apply(next.metadata)?;
    if next == current {
        return Ok(current);
    }
    next.updated_at = super::now_after(current.updated_at);
    Entity::update_many()
        .set(ActiveModel {
            metadata: Set(next.metadata.clone()),
            updated_at: Set(next.updated_at),
            ..Default::default()
        })
        .filter(of(project, session_id))
        .filter(Column::Sequence.eq(next.sequence))
        .exec(txn)
        .await?;
    Ok(next)
}

/// Erases all messages of the sessions that the subquery finds, and the record of
/// the calls that added them: how many messages there were.
pub(super) async fn erase(
    txn: &DatabaseTransaction,
    project: ProjectId,
    sessions: SelectStatement,
) -> Result<i64> {
    request::Entity::delete_many()
        .filter(request::Column::ProjectId.eq(project.get()))
        .filter(request::Column::SessionId.in_subquery(sessions.clone()))
        .exec(txn)
        .await?;
    let erased = Entity::delete_many()
        .filter(Column::ProjectId.eq(project.get()))
        .filter(Column::SessionId.in_subquery(sessions))
        .exec(txn)
        .await?;
    Ok(super::rows(erased.rows_affected))
}

fn of(project: ProjectId, session_id: &SessionId) -> Condition {
    Condition::all()
        .add(Column::ProjectId.eq(project.get()))
        .add(Column::SessionId.eq(session_id.as_str()))
}

fn find(project: ProjectId, session_id: &SessionId, message_id: Uuid) -> Select<Entity> {
    Entity::find()
        .filter(of(project, session_id))
        .filter(Column::MessageId.eq(message_id))
}

/// Says whether it is the session or the message that is not there.
async fn not_found(
    db: &impl ConnectionTrait,
    project: ProjectId,
    session_id: &SessionId,
    message_id: Uuid,
) -> Error {
    match session::message_count(db, project, session_id).await {
        Ok(_) => Error::NotFound(Resource::Message(message_id.to_string())),
        Err(error) => error,
    }
}
