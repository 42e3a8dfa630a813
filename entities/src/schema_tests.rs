//! The entities describe the real schema, on both databases, however it came about.

use std::collections::{BTreeMap, BTreeSet};

use sea_orm::{ColumnTrait, EntityTrait, IdenStatic, Iterable, PrimaryKeyToColumn, sea_query::ColumnType};

use crate::{
    store::{Backend, Run, Store, params},
    testing::{TestDb, each_backend},
};

/// Name → (type, nullable, part of the primary key).
type Columns = BTreeMap<String, (String, bool, bool)>;

fn described<E: EntityTrait>() -> (String, Columns) {
    let keys: BTreeSet<&str> = E::PrimaryKey::iter().map(|k| k.into_column().as_str()).collect();
    let columns = E::Column::iter()
        .map(|column| {
            let (name, def) = (column.as_str(), column.def());
            let kind = match def.get_column_type() {
                ColumnType::BigInteger => "bigint",
                ColumnType::SmallInteger => "smallint",
                ColumnType::Boolean => "boolean",
                ColumnType::Binary(_) | ColumnType::VarBinary(_) | ColumnType::Blob => "bytes",
                _ => "text",
            };
            (name.to_owned(), (kind.to_owned(), def.is_null(), keys.contains(name)))
        })
        .collect();
    (E::default().table_name().to_owned(), columns)
}

macro_rules! describe {
    ($($table:ident),* $(,)?) => { BTreeMap::from([$(described::<crate::$table::Entity>()),*]) };
}

fn entities() -> BTreeMap<String, Columns> {
    describe![
        access_token,
        account_data,
        admin_task,
        backward_extremity,
        blocked_room,
        consumer_cursor,
        cross_signing_key,
        current_state,
        dehydrated_device,
        delayed_event,
        destination,
        destination_room,
        device,
        device_key,
        device_list_change,
        early_redaction,
        email_session,
        event,
        event_report,
        fallback_key,
        filter,
        friend,
        history_hole,
        inbound_pdu,
        inbound_txn,
        ip_block,
        journal_head,
        key_backup,
        key_backup_session,
        key_signature,
        media,
        media_thumbnail,
        membership,
        one_time_key,
        outbound_edu,
        partial_room,
        presence,
        profile_field,
        profile_spread,
        protected_media,
        public_room,
        pusher,
        quarantine_change,
        receipt,
        refresh_token,
        registration_token,
        relayed_event,
        remote_cross_signing_key,
        remote_device,
        remote_device_list,
        remote_join,
        room,
        room_alias,
        room_head,
        room_upgrade,
        security_event,
        server_key,
        server_key_document,
        short_token,
        state_group,
        state_key,
        stream_block,
        stripped_state,
        thread_subscription,
        to_device,
        to_device_txn,
        user,
        user_email,
        user_override,
        voice_message,
    ]
}

async fn real(store: &Store) -> BTreeMap<String, Columns> {
    let sql = match store.backend() {
        Backend::Sqlite => {
            "SELECT t.name, c.name, c.type, c.\"notnull\" = 0 AND c.pk = 0, c.pk > 0 \
             FROM sqlite_schema t JOIN pragma_table_info(t.name) c WHERE t.type = 'table'"
        }
        Backend::Postgres => {
            "SELECT c.table_name::text, c.column_name::text, c.data_type::text, c.is_nullable = 'YES', k.column_name IS NOT NULL \
             FROM information_schema.columns c \
             LEFT JOIN information_schema.table_constraints p \
               ON p.table_schema = c.table_schema AND p.table_name = c.table_name AND p.constraint_type = 'PRIMARY KEY' \
             LEFT JOIN information_schema.key_column_usage k \
               ON k.constraint_name = p.constraint_name AND k.table_schema = c.table_schema AND k.column_name = c.column_name \
             WHERE c.table_schema = 'public'"
        }
    };
    let mut tables: BTreeMap<String, Columns> = BTreeMap::new();
    for row in store
        .reader()
        .rows(sql, params![])
        .await
        .expect("the catalogue can be read")
    {
        let table: String = row.try_get_by_index(0).expect("a table");
        let column: String = row.try_get_by_index(1).expect("a column");
        let kind: String = row.try_get_by_index(2).expect("a type");
        let kind = kind.to_lowercase().replace("bytea", "bytes").replace("blob", "bytes");
        let null: bool = row.try_get_by_index(3).expect("a flag");
        let key: bool = row.try_get_by_index(4).expect("a flag");
        tables.entry(table).or_default().insert(column, (kind, null, key));
    }
    tables.remove("seaql_migrations").expect("migrations are recorded");
    tables
}

#[tokio::test]
async fn entities_match_the_schema() {
    each_backend(|db| async move {
        let store = db.store().await;
        let (entities, real) = (entities(), real(&store).await);
        for (table, columns) in &entities {
            assert_eq!(Some(columns), real.get(table), "columns of {table}");
        }
        assert_eq!(entities.len(), real.len(), "every table has an entity");
        store.close().await.expect("nothing is in use");
    })
    .await;
}

#[tokio::test]
async fn an_upgrade_from_any_version_gives_the_same_schema() {
    let all = u32::try_from(migration::count()).expect("few changes");
    for version in 0..all {
        let folder = std::env::temp_dir().join(format!("synapse_rust_upgrade_{}_{version}", std::process::id()));
        let url = format!("sqlite://{}", folder.join("deep/er/file.db").display());
        assert_eq!(
            migration::status(&url).await.expect("nothing is there yet"),
            migration::count()
        );
        migration::run_to(&url, Some(version))
            .await
            .expect("the first changes apply");
        assert_eq!(
            migration::status(&url).await.expect("it is there"),
            (all - version) as usize
        );
        migration::run(&url).await.expect("the others apply");
        let store = Store::connect(crate::store::StoreOptions::new(&url))
            .await
            .expect("it opens");
        assert_eq!(real(&store).await, entities(), "from version {version}");
        store.close().await.expect("nothing is in use");
        std::fs::remove_dir_all(folder).expect("it was made");
    }
}

#[tokio::test]
async fn processes_that_start_together_migrate_once() {
    let folder = std::env::temp_dir().join(format!("synapse_rust_race_{}", std::process::id()));
    let sqlite = format!("sqlite://{}", folder.join("file.db").display());
    let postgres = TestDb::postgres().await;
    if let Some(db) = &postgres {
        let store = db.store().await;
        for sql in ["DROP SCHEMA public CASCADE", "CREATE SCHEMA public"] {
            store
                .writer()
                .exec(sql, params![])
                .await
                .expect("a schema can be replaced");
        }
        store.close().await.expect("nothing is in use");
    }
    for url in std::iter::once(sqlite.as_str()).chain(postgres.as_ref().map(TestDb::url)) {
        let runs = (0..4).map(|_| {
            let url = url.to_owned();
            tokio::spawn(async move { migration::run(&url).await })
        });
        for run in runs.collect::<Vec<_>>() {
            run.await.expect("no panic").expect("each run succeeds");
        }
        assert_eq!(migration::status(url).await.expect("it is there"), 0);
    }
    std::fs::remove_dir_all(folder).expect("it was made");
}
