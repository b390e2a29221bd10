//! The scrubber: after an erasure it removes from a SQLite file what
//! `secure_delete` leaves behind.
//!
//! `secure_delete` overwrites rows where they stand when they are deleted, and
//! pages when they are freed. It misses copies: when SQLite splits a b-tree page it
//! moves cells to other pages and forgets them in the unallocated space of the old
//! one, between the cell pointers and the cell content (`rebuildPage` in its
//! btree.c). A row that is deleted later may have left a copy in such a gap. The
//! write-ahead log holds older versions of pages, too.
//!
//! So a pass empties the log, looks at every page of the file for a gap that is
//! not zero, fills each that it finds with zeros, and empties the log again. Pages
//! are read and written through SQLite itself, by its table `sqlite_dbpage`, in
//! transactions that hold a few pages each: calls go on between them, and a crash
//! at any point leaves a database that is whole. What a pass has to find was in
//! the file when it began, and no gap is ever copied to another page, so one pass
//! is enough however much is written meanwhile.
//!
//! References: <https://www.sqlite.org/fileformat2.html#b_tree_pages>,
//! <https://www.sqlite.org/dbpage.html>, <https://www.sqlite.org/pragma.html#pragma_secure_delete>.

use std::{ops::Range, time::Duration};

use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, QueryResult, Statement};
use tokio::time::{Instant, sleep};

use super::Store;
use crate::error::Result;

/// How long a pass waits for more erasures to join it, at least and at most; in
/// between, ten times as long as the last pass took, so that passes take no more
/// than a tenth of the time.
const GATHER: Range<Duration> = Duration::from_millis(500)..Duration::from_secs(20);

/// How long after a pass that failed the next one starts.
const RETRY: Duration = Duration::from_secs(5);

/// How many pages are read in one statement.
const READ_PAGES: usize = 256;

/// How many pages are written in one transaction.
const WRITE_PAGES: usize = 64;

/// How long an attempt to empty the log waits for readers, while writes wait for
/// it; and how long it lets them go on before the next attempt.
const LOG_TIMEOUT: Duration = Duration::from_millis(100);

/// How often it tries.
const LOG_ATTEMPTS: u32 = 100;

/// Above this, the first byte of an overflow or free page, which is the first of a
/// page number, could be taken for the type of a b-tree page. 128 GiB.
const MAX_PAGES: u32 = 1 << 25;

/// Notes, in the transaction of an erasure, that the file must be scrubbed.
pub(super) async fn want(txn: &DatabaseTransaction) -> Result<(), DbErr> {
    txn.execute_unprepared("UPDATE scrub SET wanted = wanted + 1")
        .await?;
    Ok(())
}

/// Scrubs whenever an erasure wants it, starting with those that a crash kept from
/// it.
pub(super) async fn run(store: &Store) {
    let mut gather = GATHER.start;
    loop {
        let begun = Instant::now();
        match if_wanted(store).await {
            Ok(()) => {
                gather = (begun.elapsed() * 10).clamp(GATHER.start, GATHER.end);
                store.0.erased.notified().await;
                sleep(gather).await;
            }
            Err(error) => {
                tracing::warn!(cause = %error, "scrubbing failed and will be tried again");
                sleep(RETRY.max(gather)).await;
            }
        }
    }
}

/// One pass, if there was an erasure since the last one began.
pub(super) async fn if_wanted(store: &Store) -> Result<()> {
    let wanted = query(store.reader()?, "SELECT wanted, done FROM scrub").await?;
    let erasures: i64 = wanted.try_get_by_index(0)?;
    let done: i64 = wanted.try_get_by_index(1)?;
    if erasures == done {
        return Ok(());
    }
    let begun = Instant::now();
    empty_log(store).await?;
    let pages = if can_clean_pages(store).await? {
        clean(store).await?
    } else {
        rewrite(store).await?
    };
    empty_log(store).await?;
    store
        .write(erasures, |txn, erasures| {
            Box::pin(async move {
                let sql = format!("UPDATE scrub SET done = {erasures}");
                txn.execute_unprepared(&sql).await?;
                Ok(())
            })
        })
        .await?;
    tracing::info!(
        erasures = erasures - done,
        pages,
        elapsed = ?begun.elapsed(),
        "scrubbed the database file"
    );
    Ok(())
}

/// Moves all of the write-ahead log into the database, and cuts it to nothing
/// (<https://www.sqlite.org/pragma.html#pragma_wal_checkpoint>). That needs a moment
/// in which no reader is still reading from it.
async fn empty_log(store: &Store) -> Result<()> {
    for _ in 0..LOG_ATTEMPTS {
        let turn = store.turn().await;
        let writer = &store.0.writer;
        let busy_timeout = query(writer, "PRAGMA busy_timeout").await?;
        let busy_timeout: i32 = busy_timeout.try_get_by_index(0)?;
        let patience = LOG_TIMEOUT.as_millis();
        query(writer, &format!("PRAGMA busy_timeout = {patience}")).await?;
        let log = query(writer, "PRAGMA wal_checkpoint(TRUNCATE)").await;
        query(writer, &format!("PRAGMA busy_timeout = {busy_timeout}")).await?;
        drop(turn);
        let busy: i32 = log?.try_get_by_index(0)?;
        if busy == 0 {
            return Ok(());
        }
        sleep(LOG_TIMEOUT).await;
    }
    Err(crate::error::Error::Unavailable(
        "readers kept the write-ahead log in use".into(),
    ))
}

/// Whether this SQLite can read and write single pages (`.cargo/config.toml` asks
/// for it), and the file is small enough to tell them apart.
async fn can_clean_pages(store: &Store) -> Result<bool> {
    let module = "SELECT count(*) FROM pragma_module_list WHERE name = 'sqlite_dbpage'";
    let modules: i32 = query(store.reader()?, module).await?.try_get_by_index(0)?;
    Ok(modules == 1 && page_count(store).await? < MAX_PAGES)
}

async fn page_count(store: &Store) -> Result<u32> {
    let count = query(store.reader()?, "PRAGMA page_count").await?;
    Ok(count.try_get_by_index(0)?)
}

/// Writes the whole file anew without what is deleted, while writes wait.
async fn rewrite(store: &Store) -> Result<usize> {
    let _turn = store.turn().await;
    store.0.writer.execute_unprepared("VACUUM").await?;
    Ok(page_count(store).await? as usize)
}

/// Zeros every gap that is not: in how many pages there was one.
async fn clean(store: &Store) -> Result<usize> {
    let count = page_count(store).await?;
    let mut cleaned = 0;
    let numbers: Vec<u32> = (1..=count).collect();
    for numbers in numbers.chunks(READ_PAGES) {
        let found = dirty(store.reader()?, numbers).await?;
        for pages in found.chunks(WRITE_PAGES) {
            let numbers: Vec<u32> = pages.iter().map(|(number, _)| *number).collect();
            cleaned += store
                .write(numbers, |txn, numbers| Box::pin(clean_pages(txn, numbers)))
                .await?;
        }
    }
    Ok(cleaned)
}

/// Reads the pages again, now that nobody else can write, and zeros their gaps.
async fn clean_pages(txn: &DatabaseTransaction, numbers: &[u32]) -> Result<usize> {
    let pages = dirty(txn, numbers).await?;
    let cleaned = pages.len();
    for (number, mut page) in pages {
        if let Some(gap) = gap(number, &page) {
            page[gap].fill(0);
        }
        txn.execute_raw(Statement::from_sql_and_values(
            DbBackend::Sqlite,
            "UPDATE sqlite_dbpage SET data = $1 WHERE pgno = $2",
            [page.into(), number.into()],
        ))
        .await?;
    }
    Ok(cleaned)
}

/// Those of the pages that have a gap which is not zero, with their numbers.
async fn dirty(db: &impl ConnectionTrait, numbers: &[u32]) -> Result<Vec<(u32, Vec<u8>)>> {
    let numbers: Vec<String> = numbers.iter().map(u32::to_string).collect();
    // One look-up a page: the table knows no ranges.
    let rows = db
        .query_all_raw(Statement::from_sql_and_values(
            DbBackend::Sqlite,
            "SELECT pgno, data FROM json_each($1) AS number CROSS JOIN sqlite_dbpage \
             WHERE pgno = number.value",
            [format!("[{}]", numbers.join(",")).into()],
        ))
        .await?;
    let mut dirty = Vec::new();
    for row in rows {
        let number: u32 = row.try_get_by_index(0)?;
        let page: Vec<u8> = row.try_get_by_index(1)?;
        if gap(number, &page).is_some_and(|gap| page[gap].iter().any(|byte| *byte != 0)) {
            dirty.push((number, page));
        }
    }
    Ok(dirty)
}

/// The unallocated space of a b-tree page; `None` for a page of another kind.
fn gap(number: u32, page: &[u8]) -> Option<Range<usize>> {
    // The first page begins with the header of the file.
    let header = if number == 1 { 100 } else { 0 };
    let interior = match page.get(header)? {
        0x02 | 0x05 => true,
        0x0a | 0x0d => false,
        _ => return None,
    };
    let number_at = |at: usize| -> Option<usize> {
        let bytes = page.get(at..at + 2)?;
        Some(usize::from(u16::from_be_bytes([bytes[0], bytes[1]])))
    };
    let cells = number_at(header + 3)?;
    let content = match number_at(header + 5)? {
        0 => 65_536,
        content => content,
    };
    let pointers = header + if interior { 12 } else { 8 };
    let gap = pointers + 2 * cells..content;
    (gap.start <= gap.end && gap.end <= page.len()).then_some(gap)
}

/// A statement that answers with one row.
async fn query(db: &impl ConnectionTrait, sql: &str) -> Result<QueryResult, DbErr> {
    db.query_one_raw(Statement::from_string(DbBackend::Sqlite, sql))
        .await?
        .ok_or_else(|| DbErr::RecordNotFound(sql.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        auth::ProjectId,
        fields::UserId,
        store::{temporary, user},
    };

    fn user_id(number: usize) -> UserId {
        UserId::parse(format!("user number {number} of many")).unwrap()
    }

    /// A store in which many of the users were erased.
    async fn with_erased_users() -> (tempfile::TempDir, Store) {
        let (folder, store) = temporary().await;
        for number in 0..400 {
            let add = user::Add {
                project: ProjectId::DEFAULT,
                user_id: user_id(number),
                email: Some("x".repeat(number)),
                first_name: None,
                last_name: None,
                metadata: None,
                request: None,
            };
            user::add(&store, add).await.unwrap();
        }
        for number in (0..400).step_by(3) {
            let delete = user::Delete {
                project: ProjectId::DEFAULT,
                user_id: user_id(number),
                etag: None,
                allow_missing: false,
            };
            user::delete(&store, delete).await.unwrap();
        }
        (folder, store)
    }

    fn assert_holds_only_the_others(folder: &tempfile::TempDir) {
        let file = std::fs::read(folder.path().join("usher.db")).unwrap();
        let holds = |number| {
            let user_id = user_id(number);
            let id = user_id.as_str().as_bytes();
            file.windows(id.len()).any(|window| window == id)
        };
        for number in 0..400 {
            assert_eq!(holds(number), number % 3 != 0, "{number}");
        }
    }

    #[tokio::test]
    async fn single_pages_are_cleaned_by_this_build() {
        let (folder, store) = with_erased_users().await;
        assert!(can_clean_pages(&store).await.unwrap());
        if_wanted(&store).await.unwrap();
        assert_holds_only_the_others(&folder);
        // And nothing is left to clean.
        assert_eq!(clean(&store).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn the_whole_file_is_rewritten_where_pages_cannot_be_cleaned() {
        let (folder, store) = with_erased_users().await;
        empty_log(&store).await.unwrap();
        rewrite(&store).await.unwrap();
        empty_log(&store).await.unwrap();
        assert_holds_only_the_others(&folder);
    }

    #[test]
    fn a_gap_lies_between_the_pointers_and_the_content() {
        let mut page = vec![0xff; 512];
        // A leaf of a table with two cells, whose content begins at 400.
        page[..8].copy_from_slice(&[0x0d, 0, 0, 0, 2, 1, 0x90, 0]);
        assert_eq!(gap(2, &page), Some(12..400));
        // An interior page has four bytes more of a header.
        page[0] = 0x05;
        assert_eq!(gap(2, &page), Some(16..400));
        // The first page begins with the header of the file.
        page[100..108].copy_from_slice(&[0x0d, 0, 0, 0, 2, 1, 0x90, 0]);
        assert_eq!(gap(1, &page), Some(112..400));
        // What is no b-tree page has none, and neither has one that makes no sense.
        for kind in [0x00, 0x01, 0x0b, 0xff] {
            page[0] = kind;
            assert_eq!(gap(2, &page), None);
        }
        page[..8].copy_from_slice(&[0x0d, 0, 0, 0, 2, 0xff, 0xff, 0]);
        assert_eq!(gap(2, &page), None);
        page[..8].copy_from_slice(&[0x0d, 0, 0, 0xff, 0xff, 1, 0x90, 0]);
        assert_eq!(gap(2, &page), None);
        assert_eq!(gap(1, &page[..100]), None);
    }
}
