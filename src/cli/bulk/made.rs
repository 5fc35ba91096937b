//! What a dry run would have made: rows that later ones need are sent again with them.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::columns::{Row, Type};
use super::rows::{stored_address, stored_domain};

/// Customers, domains and addresses that were made, and undone again.
#[derive(Default)]
pub(super) struct Made {
    customers: HashMap<String, Row>,
    domains: HashMap<String, Row>,
    addresses: HashSet<[u8; 32]>,
}

impl Made {
    /// Remembers what a row has made.
    pub(super) fn note(&mut self, kind: Type, row: &Row) {
        match kind {
            Type::Customer => drop(self.customers.insert(path_of(row, "path"), row.clone())),
            Type::Domain => drop(self.domains.insert(stored_domain(&text(row, "domain")), row.clone())),
            Type::Mailbox | Type::Alias => drop(self.addresses.insert(hash(&text(row, "address")))),
            Type::Administrator => {}
        }
    }

    /// What a row needs of it, each after what it needs itself.
    pub(super) fn needed(&self, kind: Type, row: &Row) -> Vec<Row> {
        let mut needed = Vec::new();
        match kind {
            Type::Customer => self.customer(&path_of(row, "path"), false, &mut needed),
            Type::Domain => {
                self.customer(&path_of(row, "customer"), true, &mut needed);
                self.domain(&text(row, "domain"), &mut needed);
                self.domain(&text(row, "alias_of"), &mut needed);
                self.address(&text(row, "catch_all"), &mut needed);
            }
            Type::Mailbox => self.domain(domain_of(&text(row, "address")), &mut needed),
            Type::Alias => {
                self.domain(domain_of(&text(row, "address")), &mut needed);
                let targets = row.get("targets").and_then(Value::as_array);
                for target in targets.into_iter().flatten().filter_map(Value::as_str) {
                    self.address(target, &mut needed);
                }
            }
            Type::Administrator => {
                self.customer(&path_of(row, "customer"), true, &mut needed);
                let roles = row.get("roles").and_then(Value::as_array);
                for role in roles.into_iter().flatten().filter_map(Value::as_object) {
                    self.customer(&path_of(role, "customer"), true, &mut needed);
                }
            }
        }
        needed
    }

    /// The customers above, and the customer itself.
    fn customer(&self, path: &str, itself: bool, needed: &mut Vec<Row>) {
        let ends = path.match_indices('/').map(|(at, _)| at).chain(itself.then_some(path.len()));
        let above = ends.filter_map(|end| self.customers.get(path.get(..end)?));
        needed.extend(above.cloned());
    }

    fn domain(&self, name: &str, needed: &mut Vec<Row>) {
        let Some(row) = self.domains.get(&stored_domain(name)) else { return };
        self.customer(&path_of(row, "customer"), true, needed);
        let meant = self.domains.get(&stored_domain(&text(row, "alias_of")));
        needed.extend(meant.into_iter().chain([row]).cloned());
    }

    /// A mailbox stands for whatever is there.
    fn address(&self, address: &str, needed: &mut Vec<Row>) {
        if self.addresses.contains(&hash(address)) {
            self.domain(domain_of(address), needed);
            let row = [("type".to_owned(), "mailbox".into()), ("address".to_owned(), address.into())];
            needed.push(row.into_iter().collect());
        }
    }
}

fn text(row: &Row, name: &str) -> String {
    row.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn path_of(row: &Row, name: &str) -> String {
    text(row, name).trim_matches('/').to_ascii_lowercase()
}

fn domain_of(address: &str) -> &str {
    address.rsplit_once('@').map_or("", |(_, domain)| domain)
}

fn hash(address: &str) -> [u8; 32] {
    *blake3::hash(stored_address(address).as_bytes()).as_bytes()
}
