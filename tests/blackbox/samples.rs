//! The messages that the other tests send are what they are said to be.

use crate::support::corpus;

#[test]
fn samples_hold_clean_and_unclean_messages_and_differ() {
    let samples = corpus::all();
    assert!(samples.len() > 100);
    assert!(samples.iter().any(|sample| sample.has_nul() && !sample.is_clean()));
    assert!(samples.iter().any(|sample| !sample.is_clean() && !sample.has_nul()));
    let clean = corpus::clean();
    assert!(clean.len() * 2 > samples.len());
    let mut names: Vec<&str> = samples.iter().map(|sample| sample.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), samples.len());
}

#[test]
fn generated_messages_have_the_size_asked_for() {
    for octets in [512, 1_000, 8_192, 100_001] {
        let sample = corpus::Sample { name: String::new(), octets: corpus::message(octets, octets as u64) };
        assert_eq!(sample.octets.len(), octets);
        assert!(sample.is_clean());
    }
}
