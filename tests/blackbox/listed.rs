//! Lists of what customers have: the same pages whether the customers are named or asked about one by one.

use posthouse::base::id::CustomerId;
use posthouse::params;
use posthouse::storage::StorageError;
use posthouse::storage::metadata::database::Database;
use posthouse::storage::metadata::lane::Priority;
use posthouse::storage::metadata::scope::Customers;
use posthouse::storage::metadata::sql::Conn;
use posthouse::storage::metadata::{administrator, alias, domain, mailbox, notice};

use crate::metadata::on_both;

on_both!(pages_are_the_same_for_few_customers_and_for_many,);

/// Customers, each with a domain; a third of them with mailboxes, some with aliases.
const CUSTOMERS: i64 = 90;
/// Rows of a page.
const PAGE: i64 = 4;

async fn fill(conn: &mut Conn) -> Result<(), StorageError> {
    conn.execute("INSERT INTO store (id, name, path, created_at) VALUES (1, 'main', 'main', 0)", Vec::new())
        .await?;
    for number in 1..=CUSTOMERS {
        let name = format!("c{number}");
        let parent = (number > 1).then_some(1_i64);
        let text = "INSERT INTO customer (id, public_id, parent_id, slug, name, code, created_at)
                    VALUES ($1, $2, $3, $2, $2, $2, 0)";
        conn.execute(text, params![number, &name, parent]).await?;
        let text = "INSERT INTO domain (id, public_id, customer_id, name, state, created_at)
                    VALUES ($1, $2, $1, $3, 'verified', 0)";
        conn.execute(text, params![number, &name, format!("{}{name}.example", number % 10)]).await?;
        let text = "INSERT INTO administrator (public_id, customer_id, name, created_at)
                    VALUES ($1, $2, $3, 0)";
        conn.execute(text, params![&name, number, format!("n{}", number % 7)]).await?;
        let text = "INSERT INTO notice (public_id, at, kind, customer_id, subject, text)
                    VALUES ($1, 0, 'k', $2, 's', 't')";
        conn.execute(text, params![&name, number]).await?;
        if number % 3 == 0 {
            let text = "INSERT INTO mailbox (public_id, domain_id, local_part, password_hash, store_id,
                                             uid_validity_next, created_at) VALUES ($1, $2, $3, 'x', 1, 2, 0)";
            for local in ["a", "b", "c"] {
                conn.execute(text, params![format!("{name}{local}"), number, local]).await?;
            }
        }
        if number % 13 == 0 {
            let text =
                "INSERT INTO alias (public_id, domain_id, local_part, created_at) VALUES ($1, $2, 'to', 0)";
            conn.execute(text, params![&name, number]).await?;
        }
    }
    Ok(())
}

/// Those with an odd number.
fn odd(few: bool) -> Customers {
    if few {
        return Customers::few((1..=CUSTOMERS).rev().filter(|number| number % 2 == 1).collect());
    }
    Customers::Many(Box::new(|customer: CustomerId| customer.0 % 2 == 1))
}

/// All pages of a list behind `$after`, one after the other; `$place` is where the row stands.
macro_rules! pages {
    ($after:ident => $page:expr, |$row:ident| $place:expr) => {{
        let (mut all, mut $after) = (Vec::new(), None);
        loop {
            let rows = $page.await?;
            let is_over = rows.len() < usize::try_from(PAGE).unwrap();
            $after = rows.last().map(|$row| $place);
            all.extend(rows.iter().map(|$row| format!("{:?}", $place)));
            if is_over {
                break all;
            }
        }
    }};
}

async fn lists(conn: &mut Conn, few: bool) -> Result<Vec<Vec<String>>, StorageError> {
    let odd = odd(few);
    Ok(vec![
        pages!(after => domain::page(conn, &odd, after, PAGE), |row| (row.name.clone(), row.id.0)),
        pages!(after => mailbox::page(conn, (&odd, None), after, PAGE), |row| (
            row.domain_name.clone(),
            row.domain.0,
            row.local_part.clone()
        )),
        pages!(after => alias::page(conn, (&odd, None), after, PAGE), |row| (
            row.domain_name.clone(),
            row.domain.0,
            row.local_part.clone()
        )),
        pages!(after => administrator::page(conn, &odd, after, PAGE), |row| (
            row.name.clone(),
            row.id.0
        )),
        pages!(before => notice::of_customers(conn, &odd, 1, before, PAGE), |row| row.id),
    ])
}

async fn pages_are_the_same_for_few_customers_and_for_many(database: Database) {
    let filled: Result<(), StorageError> =
        database.write(Priority::Interactive, |conn| Box::pin(fill(conn))).await;
    filled.unwrap();
    let few: Result<_, StorageError> = database.read(|conn| Box::pin(lists(conn, true))).await;
    let many: Result<_, StorageError> = database.read(|conn| Box::pin(lists(conn, false))).await;
    let (few, many) = (few.unwrap(), many.unwrap());
    assert_eq!(few, many);
    let half = usize::try_from(CUSTOMERS / 2).unwrap();
    let counts: Vec<usize> = few.iter().map(Vec::len).collect();
    assert_eq!(counts, [half, half / 3 * 3, 3, half, half]);
}
