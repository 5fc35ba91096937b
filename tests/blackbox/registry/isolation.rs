//! Nobody sees up or sideways: what belongs to others answers exactly as what does not exist.

use posthouse::service::registry::operations;
use serde_json::{Value, json};

use super::matrix::{Names, request};
use super::{World, on_both};

on_both!(every_operation_answers_of_others_as_of_nothing, lists_show_nothing_of_others);

/// `top` with `a` and `b` below, each with an administrator and one of everything.
async fn siblings(world: &World) -> (posthouse::service::context::Authentication, Vec<Names>) {
    let mut names = vec![Names::make(world, "top").await];
    names.push(Names::make(world, "top/b").await);
    let chief = Names::make(world, "top/a").await;
    let asked = json!({ "name": "caller", "customer": chief.path, "role": "admin", "delegable": true });
    let made = world.must("administrator.create", asked).await;
    (world.login(&made["token"]).await, names)
}

/// The answer with the caller's own words masked.
fn answer(outcome: Result<Value, posthouse::service::error::ServiceError>, names: &Names) -> String {
    let text = match outcome {
        Ok(value) => format!("done {value}"),
        Err(error) => format!("{:?}: {error}", error.refusal()),
    };
    names.mask(&text)
}

async fn every_operation_answers_of_others_as_of_nothing(world: World) {
    let (caller, others) = siblings(&world).await;
    let missing = Names::missing();
    for operation in operations() {
        for mut other in others.clone() {
            // A path of theirs means nothing here; the short code would find them.
            other.path = other.code.clone();
            other.deleted_path = other.deleted_code.clone();
            let (Some(theirs), Some(nothing)) =
                (request(operation.name, &other), request(operation.name, &missing))
            else {
                continue;
            };
            let of_theirs = answer(world.run(&caller, operation.name, theirs.clone()).await, &other);
            let of_nothing = answer(world.run(&caller, operation.name, nothing).await, &missing);
            assert_eq!(of_theirs, of_nothing, "{} {theirs}", operation.name);
            assert!(of_theirs.starts_with("Some(\"not-found\")"), "{} {theirs}: {of_theirs}", operation.name);
        }
    }
}

async fn lists_show_nothing_of_others(world: World) {
    let (caller, others) = siblings(&world).await;
    for operation in operations().iter().filter(|operation| !operation.mutates) {
        // Without a target, where that is possible: everything the caller may see.
        let Ok(value) = world.run(&caller, operation.name, json!({})).await else { continue };
        let text = value.to_string();
        for other in &others {
            for word in [&other.domain, &other.code, &other.deleted_code] {
                assert!(!text.contains(word.as_str()), "{} tells of {word}: {text}", operation.name);
            }
        }
    }
}
