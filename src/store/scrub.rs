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
//! at any point leaves a database that is whole.
//!
//! What a pass has to find was in the file when it began. But a split can also move a
//! page, gap and all, to another number (`sqlite3PagerRekey`), from where the pass has
//! not looked yet to where it has. Such a page was written, and what is written while
//! a pass goes on stays in the log, for the pass holds a snapshot that keeps it there.
//! So at the end, with nobody writing, it looks at the pages in the log once more.
//!
//! References: <https://www.sqlite.org/fileformat2.html> (sections 1.6 and 4.1),
//! <https://www.sqlite.org/dbpage.html>, <https://www.sqlite.org/pragma.html#pragma_secure_delete>.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, QueryResult, Statement};
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};

use super::{Snapshot, Store, connect::BUSY_TIMEOUT};
use crate::error::{Error, Result};

/// How long a pass waits for more erasures to join it, at least and at most; in
/// between, ten times as long as the last pass took.
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
const LOG_ATTEMPTS: u32 = 50;

/// Above this, the first byte of an overflow or free page, which is the first of a
/// page number, could be taken for the type of a b-tree page. 128 GiB.
const MAX_PAGES: u32 = 1 << 25;

/// Notes, in the transaction of an erasure, that the file must be scrubbed.
pub(super) async fn want(txn: &DatabaseTransaction) -> Result<(), DbErr> {
    if txn.get_database_backend() == DbBackend::Sqlite {
        txn.execute_unprepared("UPDATE scrub SET wanted = wanted + 1")
            .await?;
    }
    Ok(())
}

/// Scrubs whenever an erasure wants it, starting with those that a crash kept from
/// it.
pub(super) async fn run(store: &Store) {
    if let Ok(false) = can_clean_pages(store).await {
        tracing::warn!(
            "single pages of this database cannot be cleaned: after erasures the whole file \
             is rewritten, in memory, while writes wait"
        );
    }
    let mut gather = GATHER.start;
    loop {
        let begun = Instant::now();
        match if_wanted(store).await {
            Ok(()) => {
                gather = (begun.elapsed() * 10).clamp(GATHER.start, GATHER.end);
                // An erasure whose caller left, or of another process, wakes nobody.
                let _ = timeout(GATHER.end, store.0.erased.notified()).await;
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
    let wanted = query(&*store.reader().await?, "SELECT wanted, done FROM scrub").await?;
    let erasures: i64 = wanted.try_get_by_index(0)?;
    let done: i64 = wanted.try_get_by_index(1)?;
    if erasures == done {
        return Ok(());
    }
    let begun = Instant::now();
    let pages = if can_clean_pages(store).await? {
        clean(store).await?
    } else {
        rewrite(store).await?
    };
    empty_log(store).await?.end().await?;
    store
        .write_in_turn(erasures, |txn, erasures| {
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
///
/// The snapshot was taken while the log was empty. As long as it is held, what is
/// written stays in the log.
async fn empty_log(store: &Store) -> Result<Snapshot> {
    let log = log_path(store).await?;
    for _ in 0..LOG_ATTEMPTS {
        let turn = store.turn().await;
        let emptied = checkpoint(store).await?;
        let snapshot = store.snapshot().await?;
        query(&*snapshot, "SELECT wanted FROM scrub").await?;
        drop(turn);
        // Another process may have written in between.
        if emptied && fs::metadata(&log).is_ok_and(|log| log.len() == 0) {
            return Ok(snapshot);
        }
        snapshot.end().await?;
        sleep(LOG_TIMEOUT).await;
    }
    Err(Error::Unavailable(
        "readers kept the write-ahead log in use".into(),
    ))
}

/// Whether it could be done without waiting long.
async fn checkpoint(store: &Store) -> Result<bool> {
    let writer = &store.0.writer;
    let busy_timeout = |timeout: Duration| {
        let sql = format!("PRAGMA busy_timeout = {}", timeout.as_millis());
        async move { query(writer, &sql).await }
    };
    busy_timeout(LOG_TIMEOUT).await?;
    let done = query(writer, "PRAGMA wal_checkpoint(TRUNCATE)").await;
    busy_timeout(BUSY_TIMEOUT).await?;
    let busy: i32 = done?.try_get_by_index(0)?;
    Ok(busy == 0)
}

async fn log_path(store: &Store) -> Result<PathBuf> {
    let sql = "SELECT file FROM pragma_database_list WHERE name = 'main'";
    let file: String = query(&*store.reader().await?, sql)
        .await?
        .try_get_by_index(0)?;
    Ok((file + "-wal").into())
}

/// Whether this SQLite can read and write single pages (`.cargo/config.toml` asks
/// for it), and the file is one whose pages can be told apart: not too large, and
/// without pointer maps, whose pages look like others.
async fn can_clean_pages(store: &Store) -> Result<bool> {
    let sql = "SELECT (SELECT count(*) FROM pragma_module_list WHERE name = 'sqlite_dbpage'), \
               (SELECT auto_vacuum FROM pragma_auto_vacuum)";
    let row = query(&*store.reader().await?, sql).await?;
    let modules: i32 = row.try_get_by_index(0)?;
    let auto_vacuum: i32 = row.try_get_by_index(1)?;
    Ok(modules == 1 && auto_vacuum == 0 && page_count(store).await? < MAX_PAGES)
}

async fn page_count(store: &Store) -> Result<u32> {
    let count = query(&*store.reader().await?, "PRAGMA page_count").await?;
    Ok(count.try_get_by_index(0)?)
}

/// Writes the whole file anew without what is deleted, while writes wait. It takes as
/// much memory as the file is large.
async fn rewrite(store: &Store) -> Result<usize> {
    let _turn = store.turn().await;
    store.0.writer.execute_unprepared("VACUUM").await?;
    Ok(page_count(store).await? as usize)
}

/// Zeros every gap that is not: in how many pages there was one.
async fn clean(store: &Store) -> Result<usize> {
    let snapshot = empty_log(store).await?;
    let mut cleaned = 0;
    let numbers: Vec<u32> = (1..=page_count(store).await?).collect();
    for numbers in numbers.chunks(READ_PAGES) {
        let found = dirty(&*store.reader().await?, numbers).await?;
        for pages in found.chunks(WRITE_PAGES) {
            let numbers: Vec<u32> = pages.iter().map(|(number, _)| *number).collect();
            cleaned += store
                .write_in_turn(numbers, |txn, numbers| Box::pin(clean_pages(txn, numbers)))
                .await?;
        }
    }
    cleaned += store
        .write_in_turn(log_path(store).await?, |txn, log| {
            Box::pin(clean_logged(txn, log))
        })
        .await?;
    snapshot.end().await?;
    Ok(cleaned)
}

/// Zeros the gaps of the pages that were written since the log was empty.
async fn clean_logged(txn: &DatabaseTransaction, log: &Path) -> Result<usize> {
    let log = log.to_owned();
    let numbers = spawn_blocking(move || logged_pages(&log)).await;
    let numbers = match numbers {
        Ok(Ok(numbers)) => Vec::from_iter(numbers),
        Ok(Err(error)) => return Err(Error::Unavailable(Box::new(error))),
        Err(panic) => return Err(Error::Internal(Box::new(panic))),
    };
    let mut cleaned = 0;
    for numbers in numbers.chunks(READ_PAGES) {
        cleaned += clean_pages(txn, numbers).await?;
    }
    Ok(cleaned)
}

/// The numbers of the pages in a write-ahead log: a header of 32 bytes, of which the
/// third four are the size of a page, and then frames, each of 24 bytes that begin with
/// the number of the page behind them. SQLite keeps no lock on this file that closing it
/// here could release.
fn logged_pages(log: &Path) -> io::Result<BTreeSet<u32>> {
    const HEADER: u64 = 32;
    const FRAME_HEADER: u64 = 24;
    let log = File::open(log)?;
    let number_at = |at| {
        let mut number = [0; 4];
        log.read_exact_at(&mut number, at)?;
        Ok(u32::from_be_bytes(number))
    };
    let length = log.metadata()?.len();
    if length < HEADER {
        return Ok(BTreeSet::new());
    }
    let frame = FRAME_HEADER + u64::from(number_at(8)?);
    let frames = (length - HEADER) / frame;
    (0..frames)
        .map(|index| number_at(HEADER + index * frame))
        .collect()
}

/// Reads the pages again, now that nobody else can write, and zeros their gaps.
async fn clean_pages(txn: &DatabaseTransaction, numbers: &[u32]) -> Result<usize> {
    let pages = dirty(txn, numbers).await?;
    let cleaned = pages.len();
    for (number, mut page) in pages {
        if let Some(gap) = gap(number, &page) {
            page[gap].fill(0);
        }
        write_page(txn, number, page).await?;
    }
    Ok(cleaned)
}

async fn write_page(txn: &DatabaseTransaction, number: u32, page: Vec<u8>) -> Result<(), DbErr> {
    txn.execute_raw(Statement::from_sql_and_values(
        DbBackend::Sqlite,
        "UPDATE sqlite_dbpage SET data = $1 WHERE pgno = $2",
        [page.into(), number.into()],
    ))
    .await?;
    Ok(())
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

    async fn fill_gap(txn: &DatabaseTransaction, number: u32) -> Result<()> {
        let sql = format!("SELECT data FROM sqlite_dbpage WHERE pgno = {number}");
        let mut page: Vec<u8> = query(txn, &sql).await?.try_get_by_index(0)?;
        let gap = gap(number, &page).unwrap();
        page[gap].fill(b'x');
        Ok(write_page(txn, number, page).await?)
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
    async fn what_is_written_while_a_pass_goes_on_is_looked_at_in_the_log() {
        let (_folder, store) = with_erased_users().await;
        let log = log_path(&store).await.unwrap();
        let snapshot = empty_log(&store).await.unwrap();
        assert!(logged_pages(&log).unwrap().is_empty());

        // A page whose gap is not zero, as if it had been moved there.
        let sql = "SELECT max(rootpage) FROM sqlite_schema";
        let root = query(&*store.reader().await.unwrap(), sql).await.unwrap();
        let number: u32 = root.try_get_by_index(0).unwrap();
        let fill = store.write_in_turn(number, |txn, number| Box::pin(fill_gap(txn, *number)));
        fill.await.unwrap();
        assert!(logged_pages(&log).unwrap().contains(&number));
        let turn = store.turn().await;
        assert!(
            !checkpoint(&store).await.unwrap(),
            "the snapshot keeps the log"
        );
        let cleaned = store.run(turn, log.clone(), |txn, log| {
            Box::pin(clean_logged(txn, log))
        });
        assert_eq!(cleaned.await.unwrap(), 1);
        snapshot.end().await.unwrap();
        assert_eq!(
            dirty(&*store.reader().await.unwrap(), &[number])
                .await
                .unwrap()
                .len(),
            0
        );
    }

    #[tokio::test]
    async fn the_whole_file_is_rewritten_where_pages_cannot_be_cleaned() {
        let (folder, store) = with_erased_users().await;
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
