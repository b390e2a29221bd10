//! Pages: keyset seeks by row values, and rows that are collected until a page is
//! full.

use futures_util::{Stream, TryStreamExt};
use prost::Message;
use sea_orm::{
    DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect, Select,
    sea_query::{BinOper, Expr, ExprTrait, Order},
};

use crate::{
    error::{Error, Result},
    page::{self, Key, Page, Part, Start},
};

/// A page that is walked by tokens ends before it grows past this many bytes of
/// protobuf, so that it fits into the 4 MiB that clients take by default. A page
/// holds one row at least, and no row is larger.
const PAGE_BYTES: usize = 3 * 1024 * 1024;

/// The most that a page with a number may hold, in bytes of protobuf. It cannot end
/// early, for the next number would not begin where it ended.
const NUMBERED_PAGE_BYTES: usize = 64 * 1024 * 1024;

/// The rows of a page.
#[derive(Debug)]
pub struct Rows<T> {
    /// In order.
    pub rows: Vec<T>,
    /// The key of the last of them, if more follow.
    pub next: Option<Key>,
}

/// A column of an order: how the engine knows it, and what a row has in it.
pub(super) struct Column<M> {
    expr: Expr,
    value: Value<M>,
}

enum Value<M> {
    Time(fn(&M) -> i64),
    Text(fn(&M) -> &str),
}

impl<M> Column<M> {
    /// A time.
    pub(super) fn time(expr: Expr, value: fn(&M) -> i64) -> Self {
        let value = Value::Time(value);
        Self { expr, value }
    }

    /// An id or an e-mail.
    pub(super) fn text(expr: Expr, value: fn(&M) -> &str) -> Self {
        let value = Value::Text(value);
        Self { expr, value }
    }

    /// The same, but as no index knows it.
    ///
    /// Where a filter finds few rows, they are to be found by it and then sorted, which
    /// costs as much as they are many. An engine that knows nothing of their number would
    /// rather walk the index of the order, past every row that does not match.
    pub(super) fn unindexed(self) -> Self {
        let expr = match self.value {
            Value::Time(_) => self.expr.add(0),
            Value::Text(_) => self.expr.binary(BinOper::Custom("||"), Expr::val("")),
        };
        Self { expr, ..self }
    }

    fn part(&self, row: &M) -> Part {
        match self.value {
            Value::Time(value) => Part::Number(value(row)),
            Value::Text(value) => Part::Text(value(row).to_owned()),
        }
    }

    /// Whether a token's part can stand in this column. Whoever forges a token can put
    /// anything there.
    fn takes(&self, part: &Part) -> bool {
        match (&self.value, part) {
            (Value::Time(_), Part::Number(_)) => true,
            (Value::Text(_), Part::Text(text)) => !text.contains('\0'),
            _ => false,
        }
    }
}

/// Narrows a query to a page: ordered by the columns, and from where the page starts.
///
/// The comparison is of row values, which both engines answer by a seek in an index
/// on the columns (<https://www.sqlite.org/rowvalue.html>, section 3.2); the same
/// spelled out with AND and OR is filtered row by row on PostgreSQL.
pub(super) fn seek<E: EntityTrait>(
    query: Select<E>,
    columns: &[Column<E::Model>],
    ascending: bool,
    page: &Page,
) -> Result<Select<E>> {
    let order = if ascending { Order::Asc } else { Order::Desc };
    let ordered = columns.iter().fold(query, |query, column| {
        query.order_by(column.expr.clone(), order.clone())
    });
    // One more row than the page holds tells whether another page follows.
    let limited = ordered.limit(page.size + 1);
    match &page.start {
        Start::First => Ok(limited),
        Start::Offset(rows) => Ok(limited.offset(*rows)),
        Start::After(key) => {
            let fits = key.len() == columns.len()
                && columns
                    .iter()
                    .zip(key)
                    .all(|(column, part)| column.takes(part));
            if !fits {
                return Err(page::foreign_token());
            }
            let here = Expr::tuple(columns.iter().map(|column| column.expr.clone()));
            let last = Expr::tuple(key.iter().map(|part| match part {
                Part::Number(number) => Expr::val(*number),
                Part::Text(text) => Expr::val(text.as_str()),
            }));
            Ok(limited.filter(if ascending {
                here.gt(last)
            } else {
                here.lt(last)
            }))
        }
    }
}

/// The key of a row in an order.
pub(super) fn key<M>(columns: &[Column<M>], row: &M) -> Key {
    columns.iter().map(|column| column.part(row)).collect()
}

/// Collects a page of `T` from the rows of a query that [`seek`] made.
pub(super) async fn collect<M, T>(
    rows: impl Stream<Item = Result<M, DbErr>>,
    page: &Page,
    key: impl Fn(&M) -> Key,
) -> Result<Rows<T>>
where
    T: From<M> + Message,
{
    let mut rows = std::pin::pin!(rows);
    let mut page_rows: Vec<T> = Vec::new();
    let mut bytes = 0;
    let mut last = None;
    while let Some(row) = rows.try_next().await? {
        let row_key = key(&row);
        let row = T::from(row);
        bytes += row.encoded_len();
        let is_full = page_rows.len() as u64 == page.size
            || match page.start {
                // A page that is counted holds what its number says, or nothing.
                Start::Offset(_) if bytes > NUMBERED_PAGE_BYTES => return Err(too_large()),
                Start::Offset(_) => false,
                Start::First | Start::After(_) => bytes > PAGE_BYTES && !page_rows.is_empty(),
            };
        if is_full {
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

fn too_large() -> Error {
    let limit = NUMBERED_PAGE_BYTES / 1024 / 1024;
    let flaw = format!("is too large: these rows take more than {limit} MiB; use page_token");
    Error::invalid("page_size", flaw)
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use sea_orm::ColumnTrait;

    use super::*;
    use crate::pb::session::v1::Message as Row;

    /// Rows of two mebibytes each.
    async fn page_of(rows: usize, start: Start) -> Result<Rows<Row>> {
        let rows = (0..rows).map(|_| {
            Ok(Row {
                content: "x".repeat(2 * 1024 * 1024),
                ..Row::default()
            })
        });
        collect(stream::iter(rows), &Page::of(start), |_| Key::new()).await
    }

    #[test]
    fn a_key_that_does_not_fit_the_order_is_refused() {
        use crate::store::totals::{Column as Name, Entity, Model};
        let columns = [
            Column::time(Name::Users.into_expr(), |_: &Model| 0),
            Column::text(Name::Shard.into_expr(), |_| ""),
        ];
        let sought = |key| {
            let page = Page::of(Start::After(key));
            seek(Entity::find(), &columns, true, &page).is_ok()
        };
        let (number, text) = (Part::Number(1), |text: &str| Part::Text(text.to_owned()));
        assert!(sought(vec![number.clone(), text("a")]));
        for forged in [
            vec![],
            vec![number.clone()],
            vec![text("a"), number.clone()],
            vec![number.clone(), number.clone()],
            vec![number.clone(), text("a"), text("a")],
            vec![number, text("\0")],
        ] {
            assert!(!sought(forged.clone()), "{forged:?}");
        }
    }

    #[tokio::test]
    async fn a_page_ends_early_unless_it_has_a_number_and_then_it_is_whole_or_refused() {
        for start in [Start::First, Start::After(Key::new())] {
            let page = page_of(5, start).await.unwrap();
            assert_eq!((page.rows.len(), page.next.is_some()), (1, true));
        }
        let page = page_of(30, Start::Offset(0)).await.unwrap();
        assert_eq!((page.rows.len(), page.next.is_some()), (30, false));
        let refused = page_of(40, Start::Offset(0)).await;
        assert!(matches!(refused, Err(Error::Invalid(fields)) if fields[0].field == "page_size"));
    }
}
