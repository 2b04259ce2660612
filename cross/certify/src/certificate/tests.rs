//! A certificate holds for what it names, and nothing else is ever read as one.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::*;
use crate::{AgreementHead, Contract};

const NOW: u64 = 1_800_000_000;
const DAY: u64 = 86_400;

fn subject() -> Subject {
    Subject {
        edge: Fingerprint::of(b"edge"),
        cloud: Fingerprint::of(b"cloud"),
        device_class: "camera-arm64".to_owned(),
        transforms: Fingerprint::of(b"transforms"),
        comparison: "top class".to_owned(),
    }
}

fn issue(contract: Contract, spending: Spending) -> Issue {
    let scores: Vec<f32> = (1..=200_u8).map(|i| f32::from(i) / 200.0).collect();
    Issue {
        subject: subject(),
        scoring: Scoring::Margin,
        target: Target::new(contract, 0.01, 0.05).unwrap(),
        spending,
        grid: Grid::from_scores(&scores).unwrap(),
        window: Window { first_unix_secs: NOW - DAY, last_unix_secs: NOW - 60 },
        issued_unix_secs: NOW,
        lifetime_secs: 30 * DAY,
    }
}

/// Every 250th of `n` labels differs, all of them below 0.8.
fn labels(n: u16) -> Vec<Labelled> {
    (1..=n)
        .map(|i| Labelled { score: f32::from(i) / f32::from(n), differs: i < n / 5 * 4 && i.is_multiple_of(250) })
        .collect()
}

fn certificate() -> Certificate {
    Certificate::issue(issue(Contract::Local, Spending::Series(1)), &labels(4_000)).unwrap()
}

fn head() -> AgreementHead {
    serde_json::from_str(
        r#"{"intercept":-1.1754944e-38,"weights":[2.3,0.1,-0.333333343,1e-9,3.4028235e38,0,0,-0.0],"classes":[[3,0.7]]}"#,
    )
    .unwrap()
}

#[test]
fn a_certificate_states_what_its_labels_showed() {
    let certificate = certificate();
    let tested = certificate.target.with_delta(certificate.spent).unwrap();
    let outcome = certify(&tested, &certificate.grid, &labels(4_000));
    assert_eq!(Some(certificate.threshold), outcome.threshold);
    assert_eq!((Some(certificate.accepted), Some(certificate.k)), (outcome.accepted, outcome.k));
    assert!((certificate.spent - 0.030_396_355).abs() < 1e-9, "the first of a series spends 6/pi^2 of delta");
    assert_eq!(certificate.check(&subject(), NOW), Ok(()));
    let by_hand = Certificate::issue(issue(Contract::Local, Spending::Whole), &labels(4_000)).unwrap();
    assert_eq!((by_hand.spent, by_hand.index), (0.05, 1));
}

#[test]
fn without_a_passed_test_there_is_no_certificate() {
    let refused = Certificate::issue(issue(Contract::System, Spending::Whole), &labels(200)).unwrap_err();
    assert_eq!(refused.to_string(), "not certified with 200 labels: at the rate seen, about 99 more would do");
    let different: Vec<_> = labels(4_000).into_iter().map(|label| Labelled { differs: true, ..label }).collect();
    let refused = Certificate::issue(issue(Contract::Local, Spending::Whole), &different).unwrap_err();
    assert!(refused.to_string().contains("no number of labels would do"), "{refused}");
}

#[test]
fn a_certificate_that_could_not_be_read_is_not_issued() {
    let long = Subject { comparison: "x".repeat(MAX_SUBJECT_TEXT + 1), ..subject() };
    let ends_before = Window { first_unix_secs: 2, last_unix_secs: 1 };
    for (spoilt, why) in [
        (Issue { subject: long, ..issue(Contract::System, Spending::Whole) }, Inconsistent::Subject),
        (Issue { lifetime_secs: 0, ..issue(Contract::System, Spending::Whole) }, Inconsistent::Times),
        (Issue { window: ends_before, ..issue(Contract::System, Spending::Whole) }, Inconsistent::Times),
    ] {
        assert_eq!(Certificate::issue(spoilt, &labels(4_000)), Err(NotIssued::Invalid(why)));
    }
}

#[test]
fn the_canonical_form_and_with_it_the_id_never_changes() {
    let scores = [0.25, 0.5, 0.75, 1.0];
    let issue = Issue { grid: Grid::from_scores(&scores).unwrap(), ..issue(Contract::System, Spending::Series(2)) };
    let certificate = Certificate::issue(issue, &labels(2_000)).unwrap();
    let golden = include_str!("golden.json").trim_end();
    let read: Certificate = serde_json::from_str(golden).unwrap();
    assert_eq!(serde_json::to_string(&read).unwrap(), golden);
    assert_eq!(read.id().to_string(), "5b985f6f6d44d45c2a38bbdb4df324094ccc6ab7a9a4eb4e798e12a5b28cad0b");
    // Another platform's logarithm may change the last digit of a new p-value, never that of a certificate which exists.
    assert_eq!(Certificate { p_value: read.p_value, ..certificate }, read);
}

#[test]
fn whatever_is_issued_is_read_back_equal() {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let mut issued = 0;
    for round in 0..400_u32 {
        let alpha = f64::from(1 + rng.next_u32() % 99_999) / 733_333.0;
        let target = Target::new(Contract::ALL[round as usize % 2], alpha, 1.0 / f64::from(2 + round)).unwrap();
        let scores: Vec<f32> = (0..500).map(|_| (rng.next_u32() >> 4) as f32 / (1 << 28) as f32).collect();
        let issue = Issue {
            target,
            scoring: [Scoring::Margin, Scoring::Msp, Scoring::Head(head())][round as usize % 3].clone(),
            grid: Grid::from_scores(&scores).unwrap(),
            ..issue(target.contract(), if round % 5 == 0 { Spending::Whole } else { Spending::Series(round) })
        };
        let Ok(certificate) = Certificate::issue(issue, &labels(1 + (rng.next_u32() % 20_000) as u16)) else {
            continue;
        };
        issued += 1;
        let read = Certificate::read(&certificate.to_json()).unwrap();
        assert_eq!((read.id(), &read), (certificate.id(), &certificate));
        assert_eq!(serde_json::from_slice::<Certificate>(&serde_json::to_vec(&read).unwrap()).unwrap(), certificate);
        let snapshot = minicbor_serde::to_vec(&certificate).unwrap();
        assert_eq!(minicbor_serde::from_slice::<Certificate>(&snapshot).unwrap(), certificate);
    }
    assert!(issued > 200, "{issued}");
}

#[test]
fn a_damaged_file_is_refused_or_reads_as_the_same_certificate() {
    let mut certificate = certificate();
    certificate.scoring = Scoring::Head(head());
    let file = certificate.to_json();
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut spoilt = file.clone();
    for at in 0..file.len() {
        for _ in 0..2 {
            spoilt[at] ^= 1 + (rng.next_u32() % 255) as u8;
            assert_refused_or_equal(&spoilt, &certificate, at);
        }
        spoilt[at] = b'0' + (rng.next_u32() % 10) as u8;
        assert_refused_or_equal(&spoilt, &certificate, at);
        spoilt[at] = file[at];
        assert_refused_or_equal(&file[..at], &certificate, at);
    }
    assert_eq!(Certificate::read(&spoilt).unwrap(), certificate);
}

fn assert_refused_or_equal(file: &[u8], certificate: &Certificate, at: usize) {
    if let Ok(read) = Certificate::read(file) {
        assert_eq!(&read, certificate, "the change at byte {at} went unseen");
    }
}

#[test]
fn what_is_no_certificate_is_refused_by_name() {
    let file = String::from_utf8(certificate().to_json()).unwrap();
    let read = |text: &str| Certificate::read(text.as_bytes()).unwrap_err();
    assert!(matches!(read(""), CertificateError::Malformed(_)));
    assert!(matches!(read(r#"{"digest":"00"}"#), CertificateError::Malformed(_)));
    assert!(matches!(read(&file.replace("\"k\"", "\"kk\"")), CertificateError::Malformed(_)));
    assert!(matches!(read(&file.replace("\"n\": 4000", "\"n\": 5000")), CertificateError::Digest { .. }));
    assert!(matches!(read(&" ".repeat(MAX_CERTIFICATE_BYTES + 1)), CertificateError::TooLarge { .. }));
    let foreign = read(&file.replace("hedge-certificate/1", "hedge-certificate/2").replace("\"spent\"", "\"budget\""));
    assert!(foreign.to_string().contains("format \"hedge-certificate/2\""), "{foreign}");
}

/// A forgery and the contradiction it is found by.
type Forgery = (fn(&mut Certificate), Inconsistent);

#[test]
fn a_forged_number_is_found_though_the_digest_fits() {
    let forgeries: [Forgery; 12] = [
        (|c| c.subject.device_class = "x".repeat(1_000), Inconsistent::Subject),
        (|c| c.grid_digest = Fingerprint::of(b"another"), Inconsistent::GridDigest),
        (|c| c.window.last_unix_secs = 0, Inconsistent::Times),
        (|c| c.expires_unix_secs = c.issued_unix_secs, Inconsistent::Times),
        (|c| c.spent = 0.05 + 1e-9, Inconsistent::Spent),
        (|c| c.index = 2, Inconsistent::Spent),
        (|c| c.k = c.accepted + 1, Inconsistent::Counts),
        (|c| c.n = u64::MAX, Inconsistent::Counts),
        (|c| c.threshold += 0.001, Inconsistent::Threshold),
        (|c| c.threshold = c.grid.thresholds()[0], Inconsistent::Threshold),
        (|c| c.accepted -= 1, Inconsistent::Offload),
        (|c| c.offload = 0.0, Inconsistent::Offload),
    ];
    for (forge, contradiction) in forgeries {
        let mut forged = certificate();
        forge(&mut forged);
        match Certificate::read(&forged.to_json()) {
            Err(CertificateError::Inconsistent(found)) => assert_eq!(found, contradiction),
            other => panic!("{contradiction:?} was answered by {other:?}"),
        }
        assert!(
            serde_json::from_slice::<Certificate>(&serde_json::to_vec(&forged).unwrap()).is_err(),
            "{contradiction}"
        );
    }
}

#[test]
fn a_p_value_that_was_made_up_or_is_too_large_is_found() {
    let refused = |forge: fn(&mut Certificate)| {
        let mut forged = certificate();
        forge(&mut forged);
        match Certificate::read(&forged.to_json()) {
            Err(CertificateError::Inconsistent(found)) => found,
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(refused(|c| c.k = 0), Inconsistent::PValue { .. }));
    assert!(matches!(refused(|c| c.p_value = twelve_digits(c.p_value * 0.999)), Inconsistent::PValue { .. }));
    let not_passed = refused(|c| {
        c.k = 60;
        c.p_value = twelve_digits(p_value(&c.target, c.k, c.accepted, c.n));
    });
    assert_eq!(not_passed, Inconsistent::NotPassed);
}

#[test]
fn each_change_of_the_subject_voids_under_its_own_name() {
    let certificate = certificate();
    let now = |change: fn(&mut Subject)| {
        let mut subject = subject();
        change(&mut subject);
        certificate.check(&subject, NOW).unwrap_err()
    };
    assert!(matches!(now(|s| s.edge = Fingerprint::of(b"new")), Void::EdgeBundle { .. }));
    assert!(matches!(now(|s| s.cloud = Fingerprint::of(b"new")), Void::CloudModel { .. }));
    assert!(matches!(now(|s| s.device_class = "camera".to_owned()), Void::DeviceClass { .. }));
    assert!(matches!(now(|s| s.transforms = Fingerprint::of(b"new")), Void::Transforms { .. }));
    assert!(matches!(now(|s| s.comparison = "top 5".to_owned()), Void::Comparison { .. }));
    let void = now(|s| s.cloud = Fingerprint::of(b"new"));
    let named = [Fingerprint::of(b"cloud"), Fingerprint::of(b"new")].map(|digest| format!("{digest:.12}"));
    assert!(named.iter().all(|digest| void.to_string().contains(digest)), "{void}");
    let text = serde_json::to_string(&void).unwrap();
    assert_eq!(serde_json::from_str::<Void>(&text).unwrap(), void);
}

#[test]
fn another_score_or_another_fit_of_it_voids() {
    let mut certificate = certificate();
    assert_eq!(certificate.check_scoring(&Scoring::Margin), Ok(()));
    assert!(matches!(certificate.check_scoring(&Scoring::Msp), Err(Void::Score { .. })));
    certificate.scoring = Scoring::Head(head());
    let refitted = serde_json::to_string(&head()).unwrap().replace("2.3", "2.4");
    let refitted = Scoring::Head(serde_json::from_str(&refitted).unwrap());
    assert_eq!(certificate.check_scoring(&Scoring::Head(head())), Ok(()));
    assert!(matches!(certificate.check_scoring(&refitted), Err(Void::Score { .. })));
}

#[test]
fn a_certificate_holds_from_its_issue_to_its_expiry() {
    let certificate = certificate();
    let at = |now| certificate.check(&subject(), now);
    assert!(matches!(at(NOW - CLOCK_SKEW_SECS - 1), Err(Void::NotYetValid { .. })));
    assert_eq!(at(NOW - CLOCK_SKEW_SECS), Ok(()));
    assert_eq!(at(NOW + 30 * DAY - 1), Ok(()));
    assert!(matches!(at(NOW + 30 * DAY), Err(Void::Expired { .. })));
    assert!(matches!(at(u64::MAX), Err(Void::Expired { .. })));
}
