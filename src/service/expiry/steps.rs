//! What happens when a date has come: `disable-login`, `stop-receiving+7d`, `delete+30d`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::service::directory::scope::duration;
use crate::service::error::{Result, ServiceError};

/// Longest delay of a step.
const DELAY_MAX: Duration = Duration::from_secs(3_660 * 86_400);

/// What a step does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::service) enum Action {
    /// Logins are off; an administrator is disabled.
    DisableLogin,
    /// Mail is deferred.
    StopReceiving,
    /// Deleted softly.
    Delete,
}

impl Action {
    const ALL: [Self; 3] = [Self::DisableLogin, Self::StopReceiving, Self::Delete];

    pub const fn name(self) -> &'static str {
        match self {
            Self::DisableLogin => "disable-login",
            Self::StopReceiving => "stop-receiving",
            Self::Delete => "delete",
        }
    }
}

/// A step: what happens, and how long after the date.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(in crate::service) struct Step {
    pub action: Action,
    pub delay_secs: u64,
}

impl Step {
    pub fn delay(self) -> Duration {
        Duration::from_secs(self.delay_secs)
    }

    /// As it is given.
    pub fn text(self) -> String {
        let name = self.action.name();
        match self.delay_secs {
            0 => name.to_owned(),
            secs if secs % 86_400 == 0 => format!("{name}+{}d", secs / 86_400),
            secs => format!("{name}+{secs}s"),
        }
    }
}

/// Reads steps: each action at most once, in the order disable-login, stop-receiving, delete, none before the one in
/// front of it. Without any, logins are switched off.
///
/// # Errors
/// When they are not such steps.
pub(in crate::service) fn parse_steps(texts: Option<&[String]>) -> Result<Vec<Step>> {
    let wrong = |message: String| ServiceError::Invalid { field: "on_expiry", message };
    let texts = texts.unwrap_or_default();
    if texts.is_empty() {
        return Ok(vec![Step { action: Action::DisableLogin, delay_secs: 0 }]);
    }
    let mut steps: Vec<Step> = Vec::new();
    for text in texts {
        let (name, delay) = text.split_once('+').unwrap_or((text, "0s"));
        let action = Action::ALL.into_iter().find(|action| action.name() == name.trim());
        let delay = duration(delay.trim()).filter(|&delay| delay <= DELAY_MAX);
        let (Some(action), Some(delay)) = (action, delay) else {
            let message = "expected disable-login, stop-receiving or delete, each with a delay such as +7d";
            return Err(wrong(format!("{message}, got {text}")));
        };
        let step = Step { action, delay_secs: delay.as_secs() };
        let is_next = |last: &Step| last.action < step.action && last.delay_secs <= step.delay_secs;
        if !steps.last().is_none_or(is_next) {
            return Err(wrong(
                "steps go on from disable-login over stop-receiving to delete, later ones not \
                              before earlier ones"
                    .to_owned(),
            ));
        }
        steps.push(step);
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(texts: &[&str]) -> Option<Vec<String>> {
        let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
        Some(parse_steps(Some(&texts)).ok()?.into_iter().map(Step::text).collect())
    }

    #[test]
    fn steps_stand_in_order_and_read_back() {
        assert_eq!(parse(&[]).unwrap(), ["disable-login"]);
        let all = ["disable-login", "stop-receiving+7d", "delete+90m"];
        assert_eq!(parse(&all), None);
        let all = ["disable-login", "stop-receiving+90m", "delete+7d"];
        assert_eq!(parse(&all).unwrap(), ["disable-login", "stop-receiving+5400s", "delete+7d"]);
        for wrong in [&["delete", "disable-login"][..], &["delete", "delete"], &["purge"], &["delete+-1d"]] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
        assert_eq!(parse(&["delete+99999999999999999999w"]), None);
        assert_eq!(parse(&["delete+36600d"]), None);
    }
}
