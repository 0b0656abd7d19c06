//! Two days of traffic, by the minute.
//!
//! One is made: a base by the hour with a peak before noon and a higher one in the evening, as services for people have
//! them; noise that lasts some minutes; in the afternoon a crowd that comes within a minute, and late in the evening ten
//! minutes of silence, as when what asks is broken. Replace day.csv by a day of your own: one line a minute, requests a
//! second.
//!
//! The other was recorded: what a load balancer of Amazon's counted each five minutes on 10 April 2014. It stood before
//! a small service, so that its counts jump as chance does; multiplied to a larger one's they jump as far, which is
//! harder on an autoscaler than a large service's traffic is.

use std::fmt::Write as _;
use std::path::Path;

use super::chance::Chance;

/// Requests a second at the full hours, from midnight to midnight.
const HOURS: [f64; 25] = [
    5200.0, 3600.0, 2700.0, 2200.0, 2100.0, 2600.0, 4200.0, 7600.0, 11800.0, 14600.0, 16000.0, 16400.0, 15600.0,
    14800.0, 14400.0, 14200.0, 14600.0, 15800.0, 17600.0, 19400.0, 20000.0, 18200.0, 13800.0, 9000.0, 5200.0,
];
/// How much of a minute's noise the next minute has.
const NOISE_KEPT: f64 = 0.9;
const NOISE: f64 = 0.012;
/// The crowd: its first minute, its minutes at full strength, and how many times the traffic it makes.
const CROWD: (usize, usize, f64) = (14 * 60 + 30, 12, 2.5);
/// The silence.
const SILENCE: std::ops::Range<usize> = 22 * 60 + 40..22 * 60 + 50;

pub fn write(path: &Path, seed: u64) {
    let mut chance = Chance::new(seed);
    let mut noise = 0.0;
    let mut text = String::from("minute,requests_per_second\n");
    for minute in 0..1440 {
        let (hour, share) = (minute / 60, minute as f64 % 60.0 / 60.0);
        let base = HOURS[hour] + (HOURS[hour + 1] - HOURS[hour]) * share;
        noise = noise * NOISE_KEPT + chance.noise() * NOISE;
        let (begin, minutes, times) = CROWD;
        let crowd = match minute.checked_sub(begin) {
            Some(since) if since < minutes => times,
            // It goes more slowly than it came.
            Some(since) => 1.0 + (times - 1.0) * (-((since - minutes) as f64) / 10.0).exp(),
            None => 1.0,
        };
        let heard = if SILENCE.contains(&minute) { 0.05 } else { 1.0 };
        writeln!(text, "{minute},{:.0}", base * (1.0 + noise) * crowd * heard).unwrap();
    }
    std::fs::write(path, text).unwrap();
}

/// The recorded day, multiplied so that `mean` requests come a second.
pub fn recorded(path: &Path, mean: f64) -> Vec<f64> {
    let text = std::fs::read_to_string(path).unwrap();
    let counts: Vec<(usize, f64)> = text
        .lines()
        .skip(1)
        .map(|line| {
            let (end, count) = line.split_once(',').unwrap();
            let (hour, minute) = end.split_once(':').unwrap();
            (hour.parse::<usize>().unwrap() * 60 + minute.parse::<usize>().unwrap(), count.parse().unwrap())
        })
        .collect();
    let total: f64 = counts.iter().map(|(_, count)| count).sum();
    // A count stands for the five minutes before its end; one that is missing goes on with the next.
    let count_of = |minute: usize| counts.iter().find(|(end, _)| *end >= minute).unwrap_or(&counts[counts.len() - 1]).1;
    (0..1440).map(|minute| count_of(minute) / total * mean * counts.len() as f64).collect()
}

/// The requests a second of each minute.
pub fn read(path: &Path) -> Vec<f64> {
    let text = std::fs::read_to_string(path).unwrap();
    let day: Vec<f64> = text.lines().skip(1).map(|line| line.split_once(',').unwrap().1.parse().unwrap()).collect();
    assert_eq!(day.len(), 1440, "a day has 1440 minutes");
    day
}
