//! Random requests of somebody inside, and random changes outside.

use posthouse::service::registry::{Operation, RunOptions, operations};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::World;
use super::super::matrix::{Names, any_request};
use super::answers::Matching;
use super::prepared::{OUTSIDE, Prepared, ZONED};

/// A request; the numbers choose among what there is.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    pub who: usize,
    pub operation: usize,
    /// Whose names it says.
    pub whose: u8,
    /// Which names are others'.
    pub mixed: u32,
    /// What is special about it.
    pub special: u8,
    pub number: u16,
}

/// What happens.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    Ask(Ask),
    /// Something outside, in one of the two worlds.
    Outside {
        world: usize,
        number: u32,
    },
    /// Time passes, and what happens by itself happens.
    Later {
        secs: u32,
    },
}

pub fn ask() -> impl Strategy<Value = Ask> {
    let numbers = (any::<u32>(), 0..16_u8, any::<u16>());
    (0..1_000_usize, 0..1_000_usize, 0..14_u8, numbers).prop_map(
        |(who, operation, whose, (mixed, special, number))| Ask {
            who,
            operation,
            whose,
            mixed,
            special,
            number,
        },
    )
}

pub fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => ask().prop_map(Step::Ask),
        4 => (0..2_usize, any::<u32>()).prop_map(|(world, number)| Step::Outside { world, number }),
        1 => (1..400_000_u32).prop_map(|secs| Step::Later { secs }),
    ]
}

/// What is asked for in each of the two worlds.
pub struct Asked {
    pub operation: &'static Operation,
    pub fields: [Value; 2],
    pub options: RunOptions,
}

/// Names outside as somebody inside could say them.
fn said_inside(names: &Names, by_code: bool) -> Names {
    let mut names = names.clone();
    if by_code {
        (names.path, names.deleted_path) = (names.code.clone(), names.deleted_code.clone());
    }
    names
}

impl Ask {
    /// The names that it says: the same ones in both worlds, or their counterparts.
    fn names(self, worlds: [&Prepared; 2]) -> [Names; 2] {
        let number = usize::from(self.number);
        let inside =
            |offset: usize| worlds.map(|world| world.inside[(number + offset) % world.inside.len()].clone());
        let outside: Vec<&Names> = worlds.iter().flat_map(|world| &world.outside).collect();
        let foreign = match outside.get(number % outside.len().max(1)) {
            Some(names) => said_inside(names, self.mixed & 1 == 0),
            None => Names::missing(),
        };
        let foreign = [foreign.clone(), foreign];
        let others = match self.whose {
            0..=6 => return inside(0),
            7 => return foreign,
            8 => return [Names::missing(), Names::missing()],
            9 | 10 => inside(1),
            11 | 12 => foreign,
            _ => [Names::missing(), Names::missing()],
        };
        let mut mixed = inside(0);
        for (names, mut others) in mixed.iter_mut().zip(others) {
            for (bit, (name, other)) in names.each().into_iter().zip(others.each()).enumerate() {
                if self.mixed >> bit & 1 == 1 {
                    name.clone_from(other);
                }
            }
        }
        mixed
    }

    /// The request.
    pub fn of(self, worlds: [&Prepared; 2], matching: &Matching) -> Asked {
        let operation = &operations()[self.operation % operations().len()];
        let mut fields = self.names(worlds).map(|names| self.fields(operation.name, &names));
        let mut options = RunOptions::default();
        // What takes much away is mostly tried, and what asks other machines always.
        let is_drastic = ["delete", "move", "suspend", "disable", "ceiling", "revoke", "expire"]
            .iter()
            .any(|word| operation.name.contains(word));
        let is_tried = self.special.is_multiple_of(2) || (is_drastic && self.special % 8 != 1);
        options.dry_run = operation.mutates && (is_tried || operation.name == "webhook.test");
        self.vary(operation, &mut fields, matching);
        Asked { operation, fields, options }
    }

    fn fields(self, operation: &str, names: &Names) -> Value {
        match (operation, self.special % 4) {
            ("import.batch", _) => json!({ "rows": [
                { "type": "customer", "path": names.path, "name": "N" },
                { "type": "mailbox", "address": names.address, "name": "N" },
                { "type": "alias", "address": names.alias, "targets": [names.address] },
                { "type": "mailbox", "address": format!("more@{}", names.domain) },
            ] }),
            ("request.create", 1) => json!({ "operation": "customer.limit",
                "fields": { "path": names.path, "mailboxes": 50 } }),
            ("request.create", 2) => json!({ "operation": "customer.create",
                "fields": { "path": format!("{}/asked", names.path) } }),
            ("request.create", 3) => json!({ "operation": "mailbox.rename",
                "fields": { "address": names.address, "name": "N" } }),
            _ => any_request(operation, names),
        }
    }

    /// Which mail store, server or zone is said.
    fn say_place(self, operation: &Operation, fields: &mut Value) {
        let number = usize::from(self.number);
        let elsewhere = format!("{OUTSIDE}-place-0");
        let place = |inside: usize, other: &str| match number % 4 {
            0 | 1 => json!(ZONED[inside]),
            2 => json!(elsewhere),
            _ => json!(other),
        };
        match operation.name {
            "mailbox.move" => fields["store"] = place(1, "main"),
            "administrator.grant" | "group.grant" | "administrator.revoke" | "group.revoke"
                if self.special >= 13 =>
            {
                fields["zone"] = place(0, "none");
                fields["role"] = json!("system-admin");
                fields.as_object_mut().unwrap().remove("customer");
            }
            name if name.starts_with("zone.") && !name.ends_with(".list") => {
                fields["name"] = place(0, "none")
            }
            name if name.starts_with("store.") && fields.get("name").is_some() => {
                fields["name"] = place(1, "main");
            }
            "server.show" | "server.history" | "server.restart" | "server.stop" => {
                fields["node"] = place(2, "none");
            }
            _ => {}
        }
    }

    fn vary(self, operation: &Operation, fields: &mut [Value; 2], matching: &Matching) {
        let is_list = operation.name.ends_with(".list") || operation.name.ends_with(".search");
        for (world, fields) in fields.iter_mut().enumerate() {
            self.say_place(operation, fields);
            let id = matching.ids.get(usize::from(self.number) % matching.ids.len().max(1));
            match (operation.name, self.special) {
                ("audit.search", 0..=3) => fields["outcome"] = json!("refused"),
                ("audit.search", 4..=6) => fields["mine"] = json!(true),
                ("audit.search", 7..=9) => {
                    fields["text"] = json!(["box", "prov", OUTSIDE, "chief"][usize::from(self.number) % 4])
                }
                ("event.list", 0..=11) => fields["since"] = json!("30d"),
                (_, 10..=12) if is_list && operation.name != "audit.search" => fields["limit"] = json!(2),
                ("job.show" | "job.cancel" | "request.show" | "request.approve" | "audit.prove", 5..) => {
                    let (name, id) = (["id", "record"][usize::from(operation.name == "audit.prove")], id);
                    if let Some(id) = id {
                        fields[name] = json!(id[world]);
                    }
                }
                (_, 13) if fields.get("customer").is_some() => {
                    fields.as_object_mut().unwrap().remove("customer");
                }
                _ => {}
            }
        }
    }
}

/// Operations that do nothing to what is imposed on those inside.
fn is_elsewhere(operation: &Operation) -> bool {
    let of_servers = ["store.", "server.", "zone.", "backup.", "job.", "notice."];
    let asks_others = ["webhook.test", "domain.verify", "mailbox.restore"];
    operation.mutates
        && !of_servers.iter().any(|kind| operation.name.starts_with(kind))
        && !asks_others.contains(&operation.name)
}

/// Something happens outside.
pub async fn happen_outside(world: &World, prepared: &Prepared, number: u32) {
    let pick = usize::try_from(number).unwrap();
    let above = &prepared.above;
    let own = match pick % 8 {
        0 => Some((
            "customer.create",
            json!({ "path": format!("{OUTSIDE}-{number}"), "domain": format!("{OUTSIDE}-{number}.example"),
                    "admin": "chief" }),
        )),
        1 | 2 => Some(("customer.create", json!({ "path": format!("{above}/{OUTSIDE}-{number}") }))),
        3 => Some(("customer.rename", json!({ "path": above, "name": format!("{OUTSIDE} {number}") }))),
        4 => Some((
            "administrator.create",
            json!({ "name": format!("{OUTSIDE}-{number}"), "customer": above, "role": "admin" }),
        )),
        5 => Some(("group.create", json!({ "name": format!("{OUTSIDE}-{number}"), "customer": above }))),
        _ => None,
    };
    if let Some((operation, asked)) = own {
        let _ = world.run(&world.system, operation, asked).await;
        return;
    }
    if prepared.outside.is_empty() {
        return;
    }
    let elsewhere: Vec<&Operation> = operations().iter().filter(|one| is_elsewhere(one)).collect();
    let operation = elsewhere[pick / 8 % elsewhere.len()];
    let names = &prepared.outside[pick / 5_000 % prepared.outside.len()];
    let asked = any_request(operation.name, names);
    let _ = world.run(&world.system, operation.name, asked).await;
}
