//! Everything in the database, for tests of what changes nothing.

use std::collections::BTreeMap;

use posthouse::params;
use posthouse::storage::StorageError;
use posthouse::storage::metadata::sql::Conn;

use super::World;

/// What is written of every change and of every attempt, and what counts.
const ASIDE: [&str; 6] = ["audit", "sqlite_", "_sqlx", "idempotency", "counter", "tree_change"];

/// Rows of each table, in one order.
pub type Dump = BTreeMap<String, Vec<String>>;

/// Everything in the database, but the trail and what numbers are drawn from.
pub async fn dump(world: &World) -> Dump {
    let read = world.database.read(|conn| Box::pin(async move { tables(conn).await }));
    read.await.map_err(|error: StorageError| error).unwrap()
}

/// As [`dump`], without these tables.
pub async fn dump_without(world: &World, tables: &[&str]) -> Dump {
    let mut all = dump(world).await;
    all.retain(|name, _| !tables.contains(&name.as_str()));
    all
}

async fn tables(conn: &mut Conn) -> Result<Dump, StorageError> {
    let is_postgres = conn.is_postgres();
    let text = if is_postgres {
        "SELECT CAST(tablename AS TEXT) FROM pg_tables WHERE schemaname = current_schema()"
    } else {
        "SELECT name FROM sqlite_master WHERE type = 'table'"
    };
    let mut all = Dump::new();
    for row in conn.rows(text, params![]).await? {
        let name = row.text(0)?;
        if ASIDE.iter().any(|aside| name.starts_with(aside)) {
            continue;
        }
        let text = if is_postgres {
            format!("SELECT CAST(t AS TEXT) FROM \"{name}\" t")
        } else {
            let text = "SELECT 'quote(\"' || name || '\")' FROM pragma_table_info($1) ORDER BY cid";
            let columns = conn.rows(text, params![&name]).await?;
            let columns: Vec<String> = columns.iter().map(|row| row.text(0)).collect::<Result<_, _>>()?;
            format!("SELECT {} FROM \"{name}\"", columns.join(" || ' ' || "))
        };
        let rows = conn.rows(text, params![]).await?;
        let mut rows: Vec<String> = rows.iter().map(|row| row.text(0)).collect::<Result<_, _>>()?;
        // Each change of the hierarchy has a version of its own.
        rows.retain(|row| !row.contains("tree_version"));
        rows.sort();
        all.insert(name, rows);
    }
    Ok(all)
}

/// Where two dumps differ; nothing when they do not.
pub fn difference(before: &Dump, after: &Dump) -> Option<String> {
    let names: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let none = Vec::new();
    let mut told = Vec::new();
    for name in names {
        let (old, new) = (before.get(name).unwrap_or(&none), after.get(name).unwrap_or(&none));
        let gone = old.iter().filter(|row| !new.contains(row)).map(|row| format!("{name} - {row}"));
        let come = new.iter().filter(|row| !old.contains(row)).map(|row| format!("{name} + {row}"));
        told.extend(gone.chain(come));
        if told.is_empty() && old.len() != new.len() {
            told.push(format!("{name}: {} rows and {}", old.len(), new.len()));
        }
    }
    (!told.is_empty()).then(|| told.join("\n"))
}
