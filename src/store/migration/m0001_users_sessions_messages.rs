//! The first schema.
//!
//! Every key, constraint and index starts with the project, so that none crosses
//! projects and the tables can be distributed by it. Ids and e-mails sort by their
//! bytes. Times are microseconds since the epoch.

use sea_orm::{ConnectionTrait, DbBackend, DbErr};
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager, async_trait};

pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0001_users_sessions_messages"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let statements = match manager.get_database_backend() {
            DbBackend::Sqlite => SQLITE,
            _ => POSTGRES,
        };
        let connection = manager.get_connection();
        connection.execute_unprepared(statements).await?;
        Ok(())
    }
}

const SQLITE: &str = "
CREATE TABLE users (
    project_id      INTEGER NOT NULL,
    user_id         TEXT    NOT NULL,
    uuid            BLOB    NOT NULL,
    revision        INTEGER NOT NULL, -- 1, and one more with every change; half of the etag
    email           TEXT,
    -- Absent sorts as empty, on every engine.
    email_key       TEXT    NOT NULL GENERATED ALWAYS AS (COALESCE(email, '')) VIRTUAL,
    first_name      TEXT,
    last_name       TEXT,
    metadata        TEXT,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    session_count   INTEGER NOT NULL, -- kept with the rows of sessions
    request_id      BLOB,             -- of the Add that made the row, if it had one
    request_digest  BLOB,
    PRIMARY KEY (project_id, user_id)
) STRICT;
CREATE INDEX users_by_created_at ON users (project_id, created_at, user_id);
CREATE INDEX users_by_updated_at ON users (project_id, updated_at, user_id);
-- It also finds an e-mail's users, newest first.
CREATE INDEX users_by_email ON users (project_id, email_key, created_at, user_id);
CREATE UNIQUE INDEX users_by_request_id ON users (project_id, request_id)
    WHERE request_id IS NOT NULL;

CREATE TABLE sessions (
    project_id      INTEGER NOT NULL,
    session_id      TEXT    NOT NULL,
    uuid            BLOB    NOT NULL,
    revision        INTEGER NOT NULL,
    user_id         TEXT    NOT NULL,
    metadata        TEXT,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    ended_at        INTEGER,
    message_count   INTEGER NOT NULL, -- also the sequence of the last message
    request_id      BLOB,
    request_digest  BLOB,
    PRIMARY KEY (project_id, session_id),
    FOREIGN KEY (project_id, user_id) REFERENCES users (project_id, user_id)
) STRICT;
CREATE INDEX sessions_by_created_at ON sessions (project_id, created_at, session_id);
CREATE INDEX sessions_by_updated_at ON sessions (project_id, updated_at, session_id);
-- It also finds a user's sessions, newest first.
CREATE INDEX sessions_by_user_id ON sessions (project_id, user_id, created_at, session_id);
-- The same orders, and that of ids, for each state: few sessions are active in the end,
-- and to find them must not take a walk past all the others.
CREATE INDEX sessions_active_by_created_at ON sessions (project_id, created_at, session_id)
    WHERE ended_at IS NULL;
CREATE INDEX sessions_active_by_updated_at ON sessions (project_id, updated_at, session_id)
    WHERE ended_at IS NULL;
CREATE INDEX sessions_active_by_user_id ON sessions (project_id, user_id, created_at, session_id)
    WHERE ended_at IS NULL;
CREATE INDEX sessions_active_by_session_id ON sessions (project_id, session_id)
    WHERE ended_at IS NULL;
CREATE INDEX sessions_ended_by_created_at ON sessions (project_id, created_at, session_id)
    WHERE ended_at IS NOT NULL;
CREATE INDEX sessions_ended_by_updated_at ON sessions (project_id, updated_at, session_id)
    WHERE ended_at IS NOT NULL;
CREATE INDEX sessions_ended_by_user_id ON sessions (project_id, user_id, created_at, session_id)
    WHERE ended_at IS NOT NULL;
CREATE INDEX sessions_ended_by_session_id ON sessions (project_id, session_id)
    WHERE ended_at IS NOT NULL;
CREATE UNIQUE INDEX sessions_by_request_id ON sessions (project_id, request_id)
    WHERE request_id IS NOT NULL;

CREATE TABLE messages (
    project_id  INTEGER NOT NULL,
    session_id  TEXT    NOT NULL,
    sequence    INTEGER NOT NULL,
    message_id  BLOB    NOT NULL,
    role        INTEGER NOT NULL, -- the number of usher.session.v1.Role
    name        TEXT,
    content     TEXT    NOT NULL,
    metadata    TEXT,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    PRIMARY KEY (project_id, session_id, sequence),
    FOREIGN KEY (project_id, session_id) REFERENCES sessions (project_id, session_id)
) STRICT;
CREATE UNIQUE INDEX messages_by_message_id ON messages (project_id, session_id, message_id);

-- What an AddMessages with a request_id added.
CREATE TABLE message_requests (
    project_id      INTEGER NOT NULL,
    request_id      BLOB    NOT NULL,
    request_digest  BLOB    NOT NULL,
    session_id      TEXT    NOT NULL,
    first_sequence  INTEGER NOT NULL,
    last_sequence   INTEGER NOT NULL,
    PRIMARY KEY (project_id, request_id),
    FOREIGN KEY (project_id, session_id) REFERENCES sessions (project_id, session_id)
) STRICT;
CREATE INDEX message_requests_by_session_id ON message_requests (project_id, session_id);

-- How many rows a project has: the sum over its shards, of which there is more than
-- one only where more than one connection writes.
CREATE TABLE totals (
    project_id  INTEGER NOT NULL,
    shard       INTEGER NOT NULL,
    users       INTEGER NOT NULL,
    sessions    INTEGER NOT NULL,
    PRIMARY KEY (project_id, shard)
) STRICT;

-- One row: how many erasures were committed, and up to which of them the file was
-- scrubbed of what they left behind.
CREATE TABLE scrub (
    wanted  INTEGER NOT NULL,
    done    INTEGER NOT NULL
) STRICT;
INSERT INTO scrub (wanted, done) VALUES (0, 0);
";

const POSTGRES: &str = "
CREATE TABLE users (
    project_id      BIGINT NOT NULL,
    user_id         TEXT COLLATE \"C\" NOT NULL,
    uuid            UUID NOT NULL,
    revision        BIGINT NOT NULL, -- 1, and one more with every change; half of the etag
    email           TEXT COLLATE \"C\",
    -- Absent sorts as empty, on every engine.
    email_key       TEXT COLLATE \"C\" NOT NULL GENERATED ALWAYS AS (COALESCE(email, '')) STORED,
    first_name      TEXT,
    last_name       TEXT,
    metadata        JSONB,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    session_count   BIGINT NOT NULL, -- kept with the rows of sessions
    request_id      UUID,             -- of the Add that made the row, if it had one
    request_digest  BYTEA,
    PRIMARY KEY (project_id, user_id)
);
CREATE INDEX users_by_created_at ON users (project_id, created_at, user_id);
CREATE INDEX users_by_updated_at ON users (project_id, updated_at, user_id);
-- It also finds an e-mail's users, newest first.
CREATE INDEX users_by_email ON users (project_id, email_key, created_at, user_id);
CREATE UNIQUE INDEX users_by_request_id ON users (project_id, request_id)
    WHERE request_id IS NOT NULL;

CREATE TABLE sessions (
    project_id      BIGINT NOT NULL,
    session_id      TEXT COLLATE \"C\" NOT NULL,
    uuid            UUID NOT NULL,
    revision        BIGINT NOT NULL,
    user_id         TEXT COLLATE \"C\" NOT NULL,
    metadata        JSONB,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    ended_at        BIGINT,
    message_count   BIGINT NOT NULL, -- also the sequence of the last message
    request_id      UUID,
    request_digest  BYTEA,
    PRIMARY KEY (project_id, session_id),
    FOREIGN KEY (project_id, user_id) REFERENCES users (project_id, user_id)
);
CREATE INDEX sessions_by_created_at ON sessions (project_id, created_at, session_id);
CREATE INDEX sessions_by_updated_at ON sessions (project_id, updated_at, session_id);
-- It also finds a user's sessions, newest first.
CREATE INDEX sessions_by_user_id ON sessions (project_id, user_id, created_at, session_id);
-- The same orders, and that of ids, for each state: few sessions are active in the end,
-- and to find them must not take a walk past all the others.
CREATE INDEX sessions_active_by_created_at ON sessions (project_id, created_at, session_id)
    WHERE ended_at IS NULL;
CREATE INDEX sessions_active_by_updated_at ON sessions (project_id, updated_at, session_id)
    WHERE ended_at IS NULL;
CREATE INDEX sessions_active_by_user_id ON sessions (project_id, user_id, created_at, session_id)
    WHERE ended_at IS NULL;
CREATE INDEX sessions_active_by_session_id ON sessions (project_id, session_id)
    WHERE ended_at IS NULL;
CREATE INDEX sessions_ended_by_created_at ON sessions (project_id, created_at, session_id)
    WHERE ended_at IS NOT NULL;
CREATE INDEX sessions_ended_by_updated_at ON sessions (project_id, updated_at, session_id)
    WHERE ended_at IS NOT NULL;
CREATE INDEX sessions_ended_by_user_id ON sessions (project_id, user_id, created_at, session_id)
    WHERE ended_at IS NOT NULL;
CREATE INDEX sessions_ended_by_session_id ON sessions (project_id, session_id)
    WHERE ended_at IS NOT NULL;
CREATE UNIQUE INDEX sessions_by_request_id ON sessions (project_id, request_id)
    WHERE request_id IS NOT NULL;

CREATE TABLE messages (
    project_id  BIGINT NOT NULL,
    session_id  TEXT COLLATE \"C\" NOT NULL,
    sequence    BIGINT NOT NULL,
    message_id  UUID NOT NULL,
    role        INTEGER NOT NULL, -- the number of usher.session.v1.Role
    name        TEXT,
    content     TEXT NOT NULL,
    metadata    JSONB,
    created_at  BIGINT NOT NULL,
    updated_at  BIGINT NOT NULL,
    PRIMARY KEY (project_id, session_id, sequence),
    FOREIGN KEY (project_id, session_id) REFERENCES sessions (project_id, session_id)
);
CREATE UNIQUE INDEX messages_by_message_id ON messages (project_id, session_id, message_id);

-- What an AddMessages with a request_id added.
CREATE TABLE message_requests (
    project_id      BIGINT NOT NULL,
    request_id      UUID NOT NULL,
    request_digest  BYTEA NOT NULL,
    session_id      TEXT COLLATE \"C\" NOT NULL,
    first_sequence  BIGINT NOT NULL,
    last_sequence   BIGINT NOT NULL,
    PRIMARY KEY (project_id, request_id),
    FOREIGN KEY (project_id, session_id) REFERENCES sessions (project_id, session_id)
);
CREATE INDEX message_requests_by_session_id ON message_requests (project_id, session_id);

-- How many rows a project has: the sum over its shards, of which there is more than
-- one only where more than one connection writes.
CREATE TABLE totals (
    project_id  BIGINT NOT NULL,
    shard       BIGINT NOT NULL,
    users       BIGINT NOT NULL,
    sessions    BIGINT NOT NULL,
    PRIMARY KEY (project_id, shard)
);
";
