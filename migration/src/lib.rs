//! The schema history: one SQL file a change, for SQLite and PostgreSQL alike.
//!
//! A file that was released is never edited again; a change is a new file at the end of [`FILES`]. In the files `{bytes}`
//! stands for the binary type (`BYTEA` or `BLOB`). The whole run happens under a lock, so processes that start together
//! do not race: the second one waits and then finds nothing to do.

mod connect;

use std::hash::{Hash, Hasher};

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

/// Name and text of every change, oldest first.
const FILES: &[(&str, &str)] = &[
    ("m0001_stream", include_str!("sql/m0001_stream.sql")),
    ("m0002_room", include_str!("sql/m0002_room.sql")),
    ("m0003_user", include_str!("sql/m0003_user.sql")),
    ("m0004_e2ee", include_str!("sql/m0004_e2ee.sql")),
    ("m0005_media", include_str!("sql/m0005_media.sql")),
    ("m0006_federation", include_str!("sql/m0006_federation.sql")),
    ("m0007_history", include_str!("sql/m0007_history.sql")),
    ("m0008_outbound", include_str!("sql/m0008_outbound.sql")),
    ("m0010_unfinished", include_str!("sql/m0010_unfinished.sql")),
    ("m0011_remote_join", include_str!("sql/m0011_remote_join.sql")),
    (
        "m0012_federation_cursor",
        include_str!("sql/m0012_federation_cursor.sql"),
    ),
    ("m0013_remote_devices", include_str!("sql/m0013_remote_devices.sql")),
    ("m0014_friend", include_str!("sql/m0014_friend.sql")),
    ("m0015_email", include_str!("sql/m0015_email.sql")),
    ("m0016_voice", include_str!("sql/m0016_voice.sql")),
    ("m0017_admin", include_str!("sql/m0017_admin.sql")),
    ("m0018_delayed", include_str!("sql/m0018_delayed.sql")),
    (
        "m0019_thread_subscription",
        include_str!("sql/m0019_thread_subscription.sql"),
    ),
];

/// Why the schema could not be brought up to date; the text is for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrateError(String);

impl std::fmt::Display for MigrateError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for MigrateError {}

impl From<DbErr> for MigrateError {
    fn from(error: DbErr) -> Self {
        Self(error.to_string())
    }
}

/// Brings the database at `url` (`sqlite://path` or `postgres://…`) up to date, from empty or from any earlier version.
///
/// Creates the SQLite file and its folder. Fails if the database knows a change this program does not (a downgrade).
pub async fn run(url: &str) -> Result<(), MigrateError> {
    run_to(url, None).await
}

/// Like [`run`], but applies at most `steps` changes: for tests of an upgrade from an earlier version.
pub async fn run_to(url: &str, steps: Option<u32>) -> Result<(), MigrateError> {
    if connect::is_sqlite(url) {
        connect::migrate_sqlite(url, steps).await
    } else {
        connect::migrate_postgres(url, steps).await
    }
}

/// A number that changes with every change of the history: names what was made from it.
#[must_use]
pub fn fingerprint() -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    FILES.hash(&mut hasher);
    hasher.finish()
}

/// How many changes this program knows.
#[must_use]
pub fn count() -> usize {
    FILES.len()
}

/// How many changes the database at `url` still lacks; all of them where it does not exist yet.
pub async fn status(url: &str) -> Result<usize, MigrateError> {
    if connect::is_sqlite(url) && !connect::sqlite_path(url)?.exists() {
        return Ok(FILES.len());
    }
    let db = connect::open(url, false).await?;
    let pending = Migrator::get_pending_migrations_read_only(&db).await;
    db.close().await?;
    Ok(pending?.len())
}

struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        FILES
            .iter()
            .map(|&(name, sql)| Box::new(SqlFile { name, sql }) as Box<dyn MigrationTrait>)
            .collect()
    }
}

/// A change written as SQL text.
struct SqlFile {
    name: &'static str,
    sql: &'static str,
}

impl MigrationName for SqlFile {
    fn name(&self) -> &str {
        self.name
    }
}

#[async_trait::async_trait]
impl MigrationTrait for SqlFile {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let bytes = if manager.get_database_backend() == DbBackend::Postgres {
            "BYTEA"
        } else {
            "BLOB"
        };
        manager
            .get_connection()
            .execute_unprepared(&self.sql.replace("{bytes}", bytes))
            .await?;
        Ok(())
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}
