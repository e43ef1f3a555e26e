//! What was measured, for people and for programs.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::output;

/// How long something took, in microseconds.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub(super) struct Latency {
    /// How many were measured.
    pub(super) count: u64,
    pub(super) p50_micros: u64,
    pub(super) p90_micros: u64,
    pub(super) p99_micros: u64,
    pub(super) p999_micros: u64,
    pub(super) max_micros: u64,
}

/// One scenario with one size of events: medians over its rounds.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Report {
    pub(super) scenario: &'static str,
    pub(super) payload_bytes: usize,
    pub(super) rounds: Vec<Round>,
    pub(super) events_per_second: f64,
    pub(super) deliveries_per_second: f64,
    /// Posts of the bare client.
    pub(super) bare_per_second: f64,
    /// Deliveries to bare posts: the median of each round's; absent where the rate is fixed.
    pub(super) ratio: Option<f64>,
    /// The smallest and the largest of the rounds.
    pub(super) ratio_range: Option<(f64, f64)>,
    pub(super) cpu_micros_per_delivery: f64,
    pub(super) bare_cpu_micros_per_post: f64,
    pub(super) written_bytes_per_event: f64,
    pub(super) peak_resident_bytes: u64,
    /// From the call to the acknowledgement.
    pub(super) publish: Latency,
    /// From the time at which the event was to be sent to its receipt.
    pub(super) end_to_end: Latency,
    /// The same without the receivers that are dead or slow, where there are some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) end_to_end_alone: Option<Latency>,
}

/// One round: the bare client, then Hookfleet.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Round {
    pub(super) events_per_second: f64,
    pub(super) deliveries_per_second: f64,
    pub(super) bare_per_second: f64,
    pub(super) cpu_micros_per_delivery: f64,
    pub(super) bare_cpu_micros_per_post: f64,
    pub(super) written_bytes_per_event: f64,
    pub(super) publish: Latency,
    pub(super) end_to_end: Latency,
}

// === impl Latency ===

impl Latency {
    pub(super) fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self {
            count: histogram.len(),
            p50_micros: at(0.5),
            p90_micros: at(0.9),
            p99_micros: at(0.99),
            p999_micros: at(0.999),
            max_micros: histogram.max(),
        }
    }

    fn median(of: impl Iterator<Item = Self>) -> Self {
        let mut all: Vec<Self> = of.filter(|it| it.count > 0).collect();
        all.sort_by_key(|it| it.p99_micros);
        all.get(all.len() / 2).copied().unwrap_or_default()
    }
}

// === impl Report ===

impl Report {
    pub(super) fn new(
        scenario: &'static str,
        payload_bytes: usize,
        rounds: Vec<Round>,
        peak_resident_bytes: u64,
    ) -> Self {
        let of = |value: fn(&Round) -> f64| median(rounds.iter().map(value).collect());
        let with_bare = rounds.iter().filter(|it| it.bare_per_second > 0.0);
        let ratios = with_bare.map(|it| it.deliveries_per_second / it.bare_per_second);
        let mut ratios: Vec<f64> = ratios.collect();
        ratios.sort_by(f64::total_cmp);
        let range = ratios.first().copied().zip(ratios.last().copied());
        Self {
            scenario,
            payload_bytes,
            events_per_second: of(|it| it.events_per_second),
            deliveries_per_second: of(|it| it.deliveries_per_second),
            bare_per_second: of(|it| it.bare_per_second),
            ratio: (!ratios.is_empty()).then(|| median(ratios)),
            ratio_range: range,
            cpu_micros_per_delivery: of(|it| it.cpu_micros_per_delivery),
            bare_cpu_micros_per_post: of(|it| it.bare_cpu_micros_per_post),
            written_bytes_per_event: of(|it| it.written_bytes_per_event),
            peak_resident_bytes,
            publish: Latency::median(rounds.iter().map(|it| it.publish)),
            end_to_end: Latency::median(rounds.iter().map(|it| it.end_to_end)),
            end_to_end_alone: None,
            rounds,
        }
    }
}

/// An empty histogram of microseconds, up to ten minutes.
pub(super) fn histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_max(600_000_000, 3)?)
}

/// The middle one; 0 of none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// For people.
pub(super) fn print(reports: &[Report]) {
    let millis = |micros: u64| format!("{:.1}", micros as f64 / 1000.0);
    let rows = reports.iter().map(|it| {
        vec![
            it.scenario.to_owned(),
            it.payload_bytes.to_string(),
            format!("{:.0}", it.events_per_second),
            format!("{:.0}", it.deliveries_per_second),
            format!("{:.0}", it.bare_per_second),
            match (it.ratio, it.ratio_range) {
                (Some(ratio), Some((from, to))) => format!("{ratio:.2} ({from:.2}-{to:.2})"),
                (_, _) => "-".to_owned(),
            },
            format!("{:.0}", it.cpu_micros_per_delivery),
            format!("{:.0}", it.bare_cpu_micros_per_post),
            format!("{:.0}", it.written_bytes_per_event),
            format!("{:.0}", it.peak_resident_bytes as f64 / f64::from(1 << 20)),
            format!(
                "{}/{}",
                millis(it.publish.p50_micros),
                millis(it.publish.p99_micros)
            ),
            format!(
                "{}/{}/{}",
                millis(it.end_to_end.p50_micros),
                millis(it.end_to_end.p99_micros),
                millis(it.end_to_end.p999_micros)
            ),
        ]
    });
    let header = [
        "SCENARIO",
        "BYTES",
        "EVENTS/S",
        "DELIVERIES/S",
        "BARE POSTS/S",
        "RATIO",
        "CPU µs",
        "BARE CPU µs",
        "WRITTEN B",
        "PEAK MiB",
        "PUBLISH ms p50/p99",
        "END TO END ms p50/p99/p99.9",
    ];
    output::table(&header, rows);
    for it in reports {
        if let Some(alone) = it.end_to_end_alone {
            output::line(format_args!(
                "{}: healthy endpoints' p99 is {} ms, and {} ms without the dead and slow ones",
                it.scenario,
                millis(it.end_to_end.p99_micros),
                millis(alone.p99_micros),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_of_rounds_and_ratios_are_within_a_round() {
        let round = |deliveries_per_second, bare_per_second| Round {
            deliveries_per_second,
            bare_per_second,
            ..Round::default()
        };
        let rounds = vec![round(60.0, 100.0), round(20.0, 40.0), round(90.0, 100.0)];
        let report = Report::new("x", 1, rounds, 7);
        assert!((report.ratio.unwrap() - 0.6).abs() < 1e-9);
        assert!((report.deliveries_per_second - 60.0).abs() < 1e-9);
        let (from, to) = report.ratio_range.unwrap();
        assert!((from - 0.5).abs() < 1e-9 && (to - 0.9).abs() < 1e-9);
        let fixed_rate = Report::new("x", 1, vec![round(50.0, 0.0)], 7);
        assert_eq!(fixed_rate.ratio, None);
    }

    #[test]
    fn latencies_are_those_of_the_histogram() {
        let mut histogram = Histogram::new(3).unwrap();
        for micros in 1..=1000 {
            histogram.record(micros).unwrap();
        }
        let latency = Latency::of(&histogram);
        assert_eq!((latency.count, latency.p50_micros), (1000, 500));
        assert_eq!((latency.p99_micros, latency.max_micros), (990, 1000));
    }
}
