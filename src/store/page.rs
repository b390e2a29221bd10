//! Pages: keyset seeks by row values, and rows that are collected until a page is
//! full.

use futures_util::{Stream, TryStreamExt};
use prost::Message;
use sea_orm::{
    ColumnTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect, Select,
    sea_query::{BinOper, Expr, ExprTrait, Order},
};

use crate::page::{Key, Page, Part, Start};

/// A page that is walked by tokens ends before it grows past this many bytes of
/// protobuf, so that it fits into the 4 MiB that clients take by default. A page
/// holds one row at least, and no row is larger.
const PAGE_BYTES: usize = 3 * 1024 * 1024;

/// The rows of a page.
#[derive(Debug)]
pub struct Rows<T> {
    /// In order.
    pub rows: Vec<T>,
    /// The key of the last of them, if more follow.
    pub next: Option<Key>,
}

/// Narrows a query to a page: ordered by `columns`, and from where the page starts.
///
/// The comparison is of row values, which both engines answer by a seek in an index
/// on the columns (<https://www.sqlite.org/rowvalue.html>, section 3.2); the same
/// spelled out with AND and OR is filtered row by row on PostgreSQL.
pub(super) fn seek<E: EntityTrait>(
    query: Select<E>,
    columns: Vec<Expr>,
    ascending: bool,
    page: &Page,
) -> Select<E> {
    let order = if ascending { Order::Asc } else { Order::Desc };
    let ordered = columns
        .iter()
        .cloned()
        .fold(query, |query, column| query.order_by(column, order.clone()));
    // One more row than the page holds tells whether another page follows.
    let limited = ordered.limit(page.size + 1);
    match &page.start {
        Start::First => limited,
        Start::Offset(rows) => limited.offset(*rows),
        Start::After(key) => {
            let here = Expr::tuple(columns);
            let last = Expr::tuple(key.iter().map(|part| match part {
                Part::Number(number) => Expr::val(*number),
                Part::Text(text) => Expr::val(text.as_str()),
            }));
            limited.filter(if ascending {
                here.gt(last)
            } else {
                here.lt(last)
            })
        }
    }
}

/// A time that no index knows.
///
/// Where a filter finds few rows, they are to be found by it and then sorted, which
/// costs as much as they are many. An engine that knows nothing of their number would
/// rather walk the index of the order, past every row that does not match.
pub(super) fn unindexed_time(column: impl ColumnTrait) -> Expr {
    column.into_expr().add(0)
}

/// Likewise, a text.
pub(super) fn unindexed_text(column: impl ColumnTrait) -> Expr {
    column
        .into_expr()
        .binary(BinOper::Custom("||"), Expr::val(""))
}

/// Collects a page of `T` from the rows of a query that [`seek`] made.
pub(super) async fn collect<M, T>(
    rows: impl Stream<Item = Result<M, DbErr>>,
    page: &Page,
    key: impl Fn(&M) -> Key,
) -> Result<Rows<T>, DbErr>
where
    T: From<M> + Message,
{
    // Pages that are counted must hold what their number says.
    let bytes_limit = match page.start {
        Start::Offset(_) => usize::MAX,
        Start::First | Start::After(_) => PAGE_BYTES,
    };
    let mut rows = std::pin::pin!(rows);
    let mut page_rows: Vec<T> = Vec::new();
    let mut bytes = 0;
    let mut last = None;
    while let Some(row) = rows.try_next().await? {
        let row_key = key(&row);
        let row = T::from(row);
        bytes += row.encoded_len();
        let full = page_rows.len() as u64 == page.size || bytes > bytes_limit;
        if full && !page_rows.is_empty() {
            return Ok(Rows {
                rows: page_rows,
                next: last,
            });
        }
        page_rows.push(row);
        last = Some(row_key);
    }
    Ok(Rows {
        rows: page_rows,
        next: None,
    })
}
