//! When an environment may change: what its serving.yaml says about holding changes back.
//!
//! A pure function of the instant that it is given; whose clock that is, is the caller's business. Time zones come
//! from the database inside the program, so that every pod has the same, also in an image without one.

use jiff::Timestamp;
use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;
use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::yaml::Fault;

/// The most windows of one environment.
const WINDOWS_MAX: usize = 32;
/// The longest reason, in characters.
const REASON_CHARS_MAX: usize = 500;
/// How far ahead an opening is looked for: windows repeat each week.
const DAYS_AHEAD: i64 = 8;

/// What an environment says about when it may change. What it does not say holds nothing back.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct Policy {
    /// Whether a change waits for a person's word.
    pub manual: bool,
    /// Whether nothing is published at all, also where nothing is published yet.
    pub suspend: bool,
    /// Why changes are held back, if they are.
    pub hold: Option<String>,
    /// When changes may go live; at any time where there are none.
    pub windows: Vec<Window>,
}

/// A time of certain days of the week at which changes may, or may not, go live.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Window {
    /// Whether changes may go live in it.
    pub allow: bool,
    /// The days on which it begins, from Monday.
    pub days: [bool; 7],
    /// When it begins.
    pub from: Time,
    /// When it ends: on the next day if that is not after `from`. None is the end of the day.
    pub to: Option<Time>,
    /// Where these days and times hold.
    pub zone: TimeZone,
    /// Why, for people.
    pub reason: Option<String>,
}

/// Why no change may go live now, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// In one line.
    pub reason: String,
    /// When the next change may go live; none where that is never.
    pub until: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RawSync {
    Auto,
    Manual,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawHold {
    reason: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawWindow {
    allow: Option<Vec<Spanned<String>>>,
    deny: Option<Vec<Spanned<String>>>,
    from: Option<Spanned<String>>,
    to: Option<Spanned<String>>,
    timezone: Spanned<String>,
    reason: Option<Spanned<String>>,
}

/// What serving.yaml says about changes, as it was read.
pub(crate) struct RawPolicy {
    pub sync: Option<RawSync>,
    pub suspend: bool,
    pub hold: Option<RawHold>,
    pub windows: Vec<Spanned<RawWindow>>,
}

impl Policy {
    pub(crate) fn validate(raw: RawPolicy) -> Result<Self, Fault> {
        let hold = raw.hold.map(|hold| reason(hold.reason, "hold.reason")).transpose()?;
        let windows = raw.windows.into_iter().enumerate().map(|(index, window)| Window::validate(index, window));
        let manual = matches!(raw.sync, Some(RawSync::Manual));
        Ok(Self { manual, suspend: raw.suspend, hold, windows: windows.collect::<Result<_, _>>()? })
    }

    /// Why a window keeps changes from going live at `now`; none if none does.
    ///
    /// An open window that denies beats any that allows; where some allow, one of them must be open.
    pub fn closed(&self, now: Timestamp) -> Option<Closed> {
        let reason = self.closed_by(now)?;
        let mut edges: Vec<_> =
            self.windows.iter().flat_map(|window| window.spans(now)).flat_map(<[_; 2]>::from).collect();
        edges.retain(|edge| *edge > now);
        edges.sort_unstable();
        let until = edges.into_iter().find(|edge| self.closed_by(*edge).is_none());
        Some(Closed { reason, until })
    }

    fn closed_by(&self, now: Timestamp) -> Option<String> {
        let open = |window: &&Window| window.spans(now).any(|(from, to)| from <= now && now < to);
        if let Some(window) = self.windows.iter().filter(|window| !window.allow).find(open) {
            return Some(window.reason.clone().unwrap_or_else(|| "a window denies changes now".to_owned()));
        }
        let mut allowing = self.windows.iter().filter(|window| window.allow).peekable();
        let first = *allowing.peek()?;
        if allowing.any(|window| open(&window)) {
            return None;
        }
        Some(first.reason.clone().unwrap_or_else(|| "no window allows changes now".to_owned()))
    }
}

impl Window {
    fn validate(index: usize, raw: Spanned<RawWindow>) -> Result<Self, Fault> {
        let field = |name: &str| format!("windows[{index}]{}{name}", if name.is_empty() { "" } else { "." });
        if index >= WINDOWS_MAX {
            return Err(Fault::at(&raw, field(""), format!("more than {WINDOWS_MAX} windows")));
        }
        let (allow, named) = match (&raw.value.allow, &raw.value.deny) {
            (Some(days), None) => (true, days),
            (None, Some(days)) => (false, days),
            _ => {
                return Err(Fault::at(
                    &raw,
                    field(""),
                    "give either `allow` or `deny`, with days such as [mon-thu, sun]",
                ));
            }
        };
        let which = if allow { "allow" } else { "deny" };
        if named.is_empty() {
            return Err(Fault::at(&raw, field(which), "names no day"));
        }
        let mut days = [false; 7];
        for (at, text) in named.iter().enumerate() {
            let range = range_of_days(&text.value).ok_or_else(|| {
                let problem =
                    format!("`{}` is no day: write mon, tue, wed, thu, fri, sat, sun, or mon-fri", brief(&text.value));
                Fault::at(text, field(&format!("{which}[{at}]")), problem)
            })?;
            range.into_iter().for_each(|day| days[day] = true);
        }
        let from = match &raw.value.from {
            Some(text) => time(text, field("from"))?
                .ok_or_else(|| Fault::at(text, field("from"), "a day ends at 24:00; none begins then"))?,
            None => Time::midnight(),
        };
        let to = match &raw.value.to {
            Some(text) => time(text, field("to"))?,
            None => None,
        };
        if let Some(text) = &raw.value.to
            && to == Some(from)
        {
            return Err(Fault::at(text, field("to"), "is the same as `from`; leave both out for a whole day"));
        }
        let name = &raw.value.timezone;
        let zone = TimeZone::get(&name.value).map_err(|_| {
            let problem = format!(
                "`{}` is not a time zone of the IANA database, such as Europe/Berlin or UTC",
                brief(&name.value)
            );
            Fault::at(name, field("timezone"), problem)
        })?;
        let reason = raw.value.reason.map(|text| reason(text, &field("reason"))).transpose()?;
        Ok(Self { allow, days, from, to, zone, reason })
    }

    /// Its openings from the day before `now` to a week after, each with its end.
    fn spans(&self, now: Timestamp) -> impl Iterator<Item = (Timestamp, Timestamp)> {
        let today = now.to_zoned(self.zone.clone()).date();
        (-1..=DAYS_AHEAD).filter_map(move |offset| {
            let day = today.checked_add(jiff::Span::new().days(offset)).ok()?;
            let begins = self.days[usize::try_from(day.weekday().to_monday_zero_offset()).ok()?];
            let end = match self.to {
                Some(to) if to > self.from => (day, to),
                to => (day.tomorrow().ok()?, to.unwrap_or_else(Time::midnight)),
            };
            begins.then(|| Some((self.instant(day, self.from)?, self.instant(end.0, end.1)?)))?
        })
    }

    /// A time that the clocks skip is as much later as they skip; one that they show twice is the first.
    fn instant(&self, day: Date, time: Time) -> Option<Timestamp> {
        Some(day.to_datetime(time).to_zoned(self.zone.clone()).ok()?.timestamp())
    }
}

/// The days that `text` names, counted from Monday: `fri`, or `fri-mon`, also over the end of the week.
fn range_of_days(text: &str) -> Option<Vec<usize>> {
    let day = |text: &str| {
        let names = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
        names.iter().position(|name| *name == text)
    };
    let Some((first, last)) = text.split_once('-') else { return Some(vec![day(text)?]) };
    let (first, last) = (day(first)?, day(last)?);
    Some((0..7).map(|step| (first + step) % 7).take((last + 7 - first) % 7 + 1).collect())
}

/// A time of day such as `09:30`; none for `24:00`, the day's end.
fn time(text: &Spanned<String>, field: String) -> Result<Option<Time>, Fault> {
    let parse = |text: &str| {
        let (hour, minute) = text.split_once(':')?;
        let number = |text: &str| (text.len() == 2).then(|| text.parse::<i8>().ok()).flatten();
        match (number(hour)?, number(minute)?) {
            (24, 0) => Some(None),
            (hour, minute) => Time::new(hour, minute, 0, 0).ok().map(Some),
        }
    };
    parse(&text.value).ok_or_else(|| {
        Fault::at(text, field, format!("`{}` is not a time of day: write it as \"09:30\"", brief(&text.value)))
    })
}

fn reason(text: Spanned<String>, field: &str) -> Result<String, Fault> {
    if text.value.trim().is_empty() {
        return Err(Fault::at(&text, field, "is empty; say why, for those who will ask"));
    }
    if text.value.chars().count() > REASON_CHARS_MAX || text.value.contains(char::is_control) {
        return Err(Fault::at(&text, field, format!("is not one line of at most {REASON_CHARS_MAX} characters")));
    }
    Ok(text.value)
}

fn brief(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Serving;

    fn policy(text: &str) -> Policy {
        Serving::parse("serving.yaml", whole(text).as_bytes()).unwrap().policy
    }

    fn whole(text: &str) -> String {
        format!("apiVersion: mainstay/v1\ndefault: iris\nmodels:\n  iris:\n    stable: 1.0.0\n{text}")
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// Until when changes are held back at `now`, in UTC.
    fn until(policy: &Policy, now: &str) -> Option<String> {
        policy.closed(at(now)).map(|closed| closed.until.map_or("never".to_owned(), |until| until.to_string()))
    }

    #[test]
    fn what_is_not_said_holds_nothing_back() {
        assert_eq!(policy(""), Policy::default());
        assert_eq!(until(&Policy::default(), "2026-11-22T12:00:00Z"), None);
        assert!(policy("sync: manual\n").manual && !policy("sync: auto\n").manual);
        assert!(policy("suspend: true\n").suspend);
        assert_eq!(policy("hold: {reason: the audit}\n").hold.as_deref(), Some("the audit"));
    }

    #[test]
    fn a_denying_window_closes_over_midnight_and_opens_by_itself() {
        // 2026-11-20 is a Friday; Berlin is an hour ahead of UTC in winter.
        let policy = policy(
            "windows:\n- {deny: [fri], from: \"16:00\", to: \"09:00\", timezone: Europe/Berlin, reason: weekend}\n",
        );
        assert_eq!(until(&policy, "2026-11-20T14:59:59Z"), None);
        let closed = policy.closed(at("2026-11-20T15:00:00Z")).unwrap();
        assert_eq!((closed.reason.as_str(), closed.until), ("weekend", Some(at("2026-11-21T08:00:00Z"))));
        assert_eq!(until(&policy, "2026-11-21T07:59:59Z").as_deref(), Some("2026-11-21T08:00:00Z"));
        assert_eq!(until(&policy, "2026-11-21T08:00:00Z"), None);
    }

    #[test]
    fn where_windows_allow_one_must_be_open_and_a_denying_one_beats_it() {
        let policy = policy(
            "windows:\n- {allow: [mon-fri], from: \"09:00\", to: \"17:00\", timezone: UTC}\n- {deny: [wed], timezone: UTC, reason: payday}\n",
        );
        assert_eq!(until(&policy, "2026-11-17T10:00:00Z"), None, "a Tuesday");
        assert_eq!(until(&policy, "2026-11-17T17:00:00Z").as_deref(), Some("2026-11-19T09:00:00Z"), "over Wednesday");
        assert_eq!(policy.closed(at("2026-11-18T10:00:00Z")).unwrap().reason, "payday");
        assert_eq!(until(&policy, "2026-11-20T18:00:00Z").as_deref(), Some("2026-11-23T09:00:00Z"), "over the weekend");
        let never = "windows:\n- {deny: [mon-sun], timezone: UTC}\n";
        assert_eq!(until(&self::policy(never), "2026-11-20T18:00:00Z").as_deref(), Some("never"));
    }

    #[test]
    fn clocks_that_are_changed_move_the_window_with_them() {
        let policy = policy("windows:\n- {allow: [sun], from: \"02:30\", to: \"05:00\", timezone: Europe/Berlin}\n");
        // On 2026-03-29 the clocks go from 02:00 to 03:00, so that 02:30 is not shown: it is 03:30.
        assert_eq!(until(&policy, "2026-03-29T00:00:00Z").as_deref(), Some("2026-03-29T01:30:00Z"));
        assert_eq!(until(&policy, "2026-03-29T02:59:59Z"), None);
        assert_eq!(until(&policy, "2026-03-29T03:00:00Z").as_deref(), Some("2026-04-05T00:30:00Z"));
    }

    #[test]
    fn every_refusal_names_line_and_field() {
        let window = |text: &str| format!("windows:\n- {{{text}, timezone: UTC}}\n");
        for (text, expected) in [
            ("sync: later\n".to_owned(), ":6: sync: unknown variant `later`"),
            ("suspend: perhaps\n".to_owned(), ":6: suspend"),
            ("hold: true\n".to_owned(), ":6: hold"),
            ("hold: {}\n".to_owned(), ":6: hold: missing field `reason`"),
            ("hold: {reason: \" \"}\n".to_owned(), ":6: hold.reason: is empty"),
            ("hold: {reason: x, until: y}\n".to_owned(), ":6: hold.until: unknown field"),
            (window("from: \"09:00\""), ":7: windows[0]: give either `allow` or `deny`"),
            (window("allow: [mon], deny: [tue]"), ":7: windows[0]: give either"),
            (window("allow: []"), ":7: windows[0].allow: names no day"),
            (window("deny: [mon, Tuesday]"), ":7: windows[0].deny[1]: `Tuesday` is no day"),
            (window("deny: [mon], from: 9am"), ":7: windows[0].from: `9am` is not a time of day"),
            (window("deny: [mon], from: \"24:00\""), ":7: windows[0].from: a day ends at 24:00"),
            (window("deny: [mon], from: \"25:00\""), ":7: windows[0].from: `25:00`"),
            (window("deny: [mon], to: \"00:00\""), ":7: windows[0].to: is the same as `from`"),
            (window("deny: [mon], til: \"00:00\""), ":7: windows[0].til: unknown field"),
            (
                "windows:\n- {deny: [mon], timezone: Mars/Base}\n".to_owned(),
                ":7: windows[0].timezone: `Mars/Base` is not",
            ),
            ("windows:\n- {deny: [mon]}\n".to_owned(), "missing field `timezone`"),
            (format!("windows:\n{}", "- {deny: [mon], timezone: UTC}\n".repeat(33)), ":39: windows[32]: more than 32"),
        ] {
            let error = Serving::parse("serving.yaml", whole(&text).as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}\n  should contain {expected}");
        }
    }

    #[test]
    fn days_are_named_one_by_one_or_from_to() {
        assert_eq!(range_of_days("sun"), Some(vec![6]));
        assert_eq!(range_of_days("sat-mon"), Some(vec![5, 6, 0]));
        assert_eq!(range_of_days("mon-sun").unwrap().len(), 7);
        for wrong in ["", "-", "mon-", "monday", "Mon", "mon-tue-wed"] {
            assert_eq!(range_of_days(wrong), None, "{wrong}");
        }
    }
}
