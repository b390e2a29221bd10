//! How SQLite answers a list: by a seek in an index that has the rows in their order,
//! so that a page costs the same at any depth.

use sea_orm::{ConnectionTrait, DbBackend, EntityTrait, QueryTrait, Select};

use super::{Store, page, session, temporary, user};
use crate::{
    auth::ProjectId,
    fields::UserId,
    page::{Page, Part, Start},
    pb::{session::v1 as sessions, user::v1 as users},
};

/// The steps of a query's plan (<https://www.sqlite.org/eqp.html>).
async fn plan<E: EntityTrait>(store: &Store, query: Select<E>) -> Vec<String> {
    let mut statement = query.build(DbBackend::Sqlite);
    statement.sql = format!("EXPLAIN QUERY PLAN {}", statement.sql);
    let rows = store.reader().await.unwrap().query_all_raw(statement).await;
    let steps = rows.unwrap().into_iter();
    steps
        .map(|row| row.try_get("", "detail").unwrap())
        .collect()
}

async fn user_plan(store: &Store, list: &user::List) -> Vec<String> {
    let (matching, order) = (user::matching(list), user::order(list));
    let query = page::seek(matching, &order, list.ascending, &list.page);
    plan(store, query.unwrap()).await
}

async fn session_plan(store: &Store, list: &session::List) -> Vec<String> {
    let (matching, order) = (session::matching(list), session::order(list));
    let query = page::seek(matching, &order, list.ascending, &list.page);
    plan(store, query.unwrap()).await
}

/// Any key of these columns; the plan does not depend on the values.
fn starts(columns: &str) -> [Start; 3] {
    let part = |column: &str| match column {
        "created_at" | "updated_at" => Part::Number(0),
        _ => Part::Text(String::new()),
    };
    let key = columns.split(',').map(part).collect();
    [Start::First, Start::Offset(10), Start::After(key)]
}

/// The one step that finds a page: a search of the index for what is `equal`, and from
/// the key on.
fn seek(
    table: &str,
    index: &str,
    equal: &str,
    columns: &str,
    ascending: bool,
    start: &Start,
) -> String {
    let sign = if ascending { '>' } else { '<' };
    let range = match start {
        Start::After(key) if key.len() == 1 => format!(" AND {columns}{sign}?"),
        Start::After(key) => format!(" AND ({columns}){sign}({})", vec!["?"; key.len()].join(",")),
        Start::First | Start::Offset(_) => String::new(),
    };
    format!("SEARCH {table} USING INDEX {index} ({equal}{range})")
}

#[tokio::test]
async fn every_order_of_users_is_an_index() {
    use users::OrderBy;
    let (_folder, store) = temporary().await;
    for (email, order_by, index, equal, columns) in [
        (
            None,
            OrderBy::CreatedAt,
            "users_by_created_at",
            "project_id=?",
            "created_at,user_id",
        ),
        (
            None,
            OrderBy::UpdatedAt,
            "users_by_updated_at",
            "project_id=?",
            "updated_at,user_id",
        ),
        (
            None,
            OrderBy::UserId,
            "sqlite_autoindex_users_1",
            "project_id=?",
            "user_id",
        ),
        (
            None,
            OrderBy::Email,
            "users_by_email",
            "project_id=?",
            "email_key,created_at,user_id",
        ),
        (
            Some("x"),
            OrderBy::CreatedAt,
            "users_by_email",
            "project_id=? AND email_key=?",
            "created_at,user_id",
        ),
        (
            Some("x"),
            OrderBy::Email,
            "users_by_email",
            "project_id=? AND email_key=?",
            "created_at,user_id",
        ),
    ] {
        for (ascending, start) in starts(columns)
            .into_iter()
            .flat_map(|start| [(true, start.clone()), (false, start)])
        {
            let expected = seek("users", index, equal, columns, ascending, &start);
            let list = user::List {
                project: ProjectId::DEFAULT,
                email: email.map(str::to_owned),
                order_by,
                ascending,
                page: Page::of(start),
            };
            assert_eq!(user_plan(&store, &list).await, [expected]);
        }
    }
}

#[tokio::test]
async fn every_order_of_sessions_is_an_index() {
    use sessions::{OrderBy, State};
    let (_folder, store) = temporary().await;
    let user_id = || Some(UserId::parse("x".to_owned()).unwrap());
    for (state, indexes) in [
        (State::Unspecified, "sessions_by_"),
        (State::Active, "sessions_active_by_"),
        (State::Ended, "sessions_ended_by_"),
    ] {
        for (user_id, order_by, index, equal, columns) in [
            (
                None,
                OrderBy::CreatedAt,
                "created_at",
                "project_id=?",
                "created_at,session_id",
            ),
            (
                None,
                OrderBy::UpdatedAt,
                "updated_at",
                "project_id=?",
                "updated_at,session_id",
            ),
            (
                None,
                OrderBy::SessionId,
                "session_id",
                "project_id=?",
                "session_id",
            ),
            (
                None,
                OrderBy::UserId,
                "user_id",
                "project_id=?",
                "user_id,created_at,session_id",
            ),
            (
                user_id(),
                OrderBy::CreatedAt,
                "user_id",
                "project_id=? AND user_id=?",
                "created_at,session_id",
            ),
            (
                user_id(),
                OrderBy::UserId,
                "user_id",
                "project_id=? AND user_id=?",
                "created_at,session_id",
            ),
        ] {
            let index = match (state, order_by) {
                (State::Unspecified, OrderBy::SessionId) => {
                    "sqlite_autoindex_sessions_1".to_owned()
                }
                _ => format!("{indexes}{index}"),
            };
            for (ascending, start) in starts(columns)
                .into_iter()
                .flat_map(|start| [(true, start.clone()), (false, start)])
            {
                let expected = seek("sessions", &index, equal, columns, ascending, &start);
                let list = session::List {
                    project: ProjectId::DEFAULT,
                    user_id: user_id.clone(),
                    state,
                    order_by,
                    ascending,
                    page: Page::of(start),
                };
                assert_eq!(session_plan(&store, &list).await, [expected]);
            }
        }
    }
}

#[tokio::test]
async fn what_a_filter_finds_is_sorted_rather_than_looked_for_in_an_order() {
    let (_folder, store) = temporary().await;
    let sort = "USE TEMP B-TREE FOR ORDER BY";
    for (order_by, columns) in [
        (users::OrderBy::UpdatedAt, "updated_at,user_id"),
        (users::OrderBy::UserId, "user_id"),
    ] {
        for start in starts(columns) {
            let list = user::List {
                project: ProjectId::DEFAULT,
                email: Some("x".to_owned()),
                order_by,
                ascending: true,
                page: Page::of(start),
            };
            let search = "SEARCH users USING INDEX users_by_email (project_id=? AND email_key=?)";
            assert_eq!(user_plan(&store, &list).await, [search, sort]);
        }
    }
    for (order_by, columns) in [
        (sessions::OrderBy::UpdatedAt, "updated_at,session_id"),
        (sessions::OrderBy::SessionId, "session_id"),
    ] {
        for start in starts(columns) {
            let list = session::List {
                project: ProjectId::DEFAULT,
                user_id: Some(UserId::parse("x".to_owned()).unwrap()),
                state: sessions::State::Unspecified,
                order_by,
                ascending: true,
                page: Page::of(start),
            };
            let search =
                "SEARCH sessions USING INDEX sessions_by_user_id (project_id=? AND user_id=?)";
            assert_eq!(session_plan(&store, &list).await, [search, sort]);
        }
    }
}
