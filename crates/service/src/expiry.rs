//! When the certificates that this process uses end, for `/metrics`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use keyturn_domain::time::UnixMillis;
use x509_parser::parse_x509_certificate;

/// By what they are for.
static ENDS: Mutex<BTreeMap<&'static str, UnixMillis>> = Mutex::new(BTreeMap::new());

const DAY: Duration = Duration::from_hours(24);

/// Notes that what is used for `what` from now on ends then.
pub(crate) fn note(what: &'static str, ends: UnixMillis) {
    ENDS.lock().unwrap_or_else(PoisonError::into_inner).insert(what, ends);
}

/// When the first of these certificates (DER) ends: a chain is no longer good than its shortest link. None if none of
/// them can be read.
pub(crate) fn of_chain<'a>(chain: impl IntoIterator<Item = &'a [u8]>) -> Option<UnixMillis> {
    let ends = chain.into_iter().filter_map(|der| {
        let (_, certificate) = parse_x509_certificate(der).ok()?;
        u64::try_from(certificate.validity().not_after.timestamp()).ok()
    });
    ends.min().map(|seconds| UnixMillis(seconds.saturating_mul(1000)))
}

/// Sets the gauges. What has ended has fewer than no days left.
pub(crate) fn tell(now: UnixMillis) {
    for (what, ends) in ENDS.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        metrics::gauge!("keyturn_certificate_days_left", "certificate" => *what).set(days(now, *ends));
    }
}

fn days(now: UnixMillis, ends: UnixMillis) -> f64 {
    let (left, over) = (ends.since(now).as_secs_f64(), now.since(ends).as_secs_f64());
    (left - over) / DAY.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn until(year: i32) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.not_after = date_time_ymd(year, 1, 1);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn the_shortest_link_counts_and_what_has_ended_is_below_zero() {
        let (short, long) = (until(2030), until(2040));
        let ends = of_chain([long.as_slice(), short.as_slice(), b"no certificate"]).unwrap();
        assert_eq!(ends, UnixMillis(1_893_456_000_000), "2030-01-01");
        assert_eq!(of_chain([b"no certificate".as_slice()]), None);
        let ten_days = 10 * 24 * 3600 * 1000;
        assert!((days(UnixMillis(ends.0 - ten_days), ends) - 10.0).abs() < 1e-6);
        assert!((days(UnixMillis(ends.0 + ten_days), ends) + 10.0).abs() < 1e-6);
    }
}
