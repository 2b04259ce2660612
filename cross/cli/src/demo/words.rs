//! What the demonstration's figures mean, in words.

use std::fmt::Write;

use hedge_certify::{Certificate, Contract};

use super::calibrate::{self, Attempt};
use super::client::Source;
use super::recovery::Recovery;
use super::report::Report;
use super::script::Phase;
use super::table::percent;
use super::tally::{PhaseTally, Tally};
use super::world::{AUDIT_RATE, BOOST_RATE, RECERTIFY};
use crate::output;

/// What came of the calibration.
pub(super) fn calibration(attempt: &Attempt) -> String {
    let labels = calibrate::PLAN.total();
    match attempt {
        Ok(certificate) => format!(
            "Certified by {labels} answers of both models: {}. Local answers stay local from a {} score of {:.4} on; {} of \
             requests are expected to go to the cloud.",
            promise(certificate),
            certificate.scoring.name(),
            certificate.threshold,
            percent(Some(certificate.offload)),
        ),
        Err(error) => format!(
            "Not certified by {labels} answers of both models: {error}. The demonstration goes on without a certificate: its \
             local answers are `uncertified`.",
        ),
    }
}

/// What it all means.
pub(super) fn words(report: &Report) -> String {
    let mut text = String::from("\n");
    for PhaseTally { phase, tally } in &report.phases {
        let sentence = match phase {
            Phase::Normal => normal(tally),
            Phase::Cut => cut(tally),
            Phase::Healed => healed(tally),
            Phase::Drift => drift(tally),
        };
        let _ = writeln!(text, "{sentence}");
    }
    if report.attempt.is_ok() {
        let _ = writeln!(text, "{}", recovery(&report.recovery));
        let _ = writeln!(text, "{}", settings(report.shadow));
    }
    let _ = writeln!(text, "{}", devices(report));
    text.push_str(&statuses(&report.attempt));
    text
}

fn promise(certificate: &Certificate) -> String {
    let of = match certificate.target.contract() {
        Contract::System => "of all requests get a local answer that differs from the cloud's",
        Contract::Local => "of the locally answered requests differ from the cloud's",
    };
    let (alpha, delta) = (certificate.target.alpha(), certificate.target.delta());
    format!("at most {} {of}, with a probability of {}", output::percent(alpha), output::percent(1.0 - delta))
}

fn normal(tally: &Tally) -> String {
    let cloud = tally.from(Source::Cloud).answers();
    format!(
        "Connected, the device answered {} of {} requests itself, {} of them from its cache, and the cloud answered {cloud}. {} \
         of the answers are the cloud model's own class, {} are right.",
        tally.answers() - cloud,
        tally.requests,
        tally.from(Source::Cache).answers(),
        percent(tally.agreement()),
        percent(tally.accuracy()),
    )
}

fn cut(tally: &Tally) -> String {
    let (requests, answers, cloud) = (tally.requests, tally.answers(), tally.from(Source::Cloud).answers());
    let answered = match (answers == requests, cloud) {
        (true, 0) => format!("the device answered all {requests} requests alone"),
        (true, cloud) => format!("all {requests} requests were answered, {cloud} of them by the cloud all the same"),
        (false, _) => format!("only {answers} of {requests} requests were answered"),
    };
    format!(
        "While the link was cut, {answered}: {} are `certified`, for being offline voids no certificate, {} are `uncertified`, {} \
         come from the cache; {} agree with the cloud model, {} are right.",
        tally.certified,
        tally.uncertified,
        tally.from(Source::Cache).answers(),
        percent(tally.agreement()),
        percent(tally.accuracy()),
    )
}

fn healed(tally: &Tally) -> String {
    let (requests, asked) = (tally.requests, tally.from(Source::Cloud).answers());
    let cloud = match asked {
        0 => format!("the cloud answered none of {requests} requests"),
        _ => format!("offloading resumed by itself: the cloud answered {asked} of {requests} requests"),
    };
    format!(
        "When the link was back, {cloud}; {} of the answers agree with its model, {} are right.",
        percent(tally.agreement()),
        percent(tally.accuracy()),
    )
}

fn drift(tally: &Tally) -> String {
    format!(
        "When the camera was turned and noisier, {} of {} answers were `certified`, {} of which differ from the cloud's; {} of all \
         answers agree with the cloud model, {} are right.",
        tally.certified,
        tally.requests,
        tally.certified_differing,
        percent(tally.agreement()),
        percent(tally.accuracy()),
    )
}

/// How far the drift's story came.
fn recovery(recovery: &Recovery) -> String {
    let &Recovery { in_use, drift, alarm, renewed, .. } = recovery;
    let story = match (in_use, alarm, renewed) {
        (false, ..) => {
            "No certificate was in use when the drift began, so that there was none to lose. More requests (--requests) show how \
             one is lost and won."
                .to_owned()
        }
        (true, None, _) => {
            "The drift raised no alarm in this run: it was too short for that. More requests (--requests) raise one."
                .to_owned()
        }
        (true, Some(alarm), None) => format!(
            "The alarm rang after {} requests of drift and the certificate was void at once. No new one is in use yet: the run was \
             too short for that. More requests (--requests) bring one.",
            alarm - drift
        ),
        (true, Some(alarm), Some(renewed)) => format!(
            "The alarm rang after {} requests of drift and the certificate was void at once; a new one was gathered, watched and in \
             use {} requests later, without anyone's doing.",
            alarm - drift,
            renewed - alarm,
        ),
    };
    format!("{story}{}", promise_kept(recovery))
}

/// That the settings are a demonstration's.
fn settings(shadow: u64) -> String {
    format!(
        "These are a demonstration's settings, so that it all fits into some thousand requests: {} of requests are audited and {} \
         once scores have shifted (by default 2 % and 20 %), {} labels make a new certificate (7,000), which is watched for \
         {shadow} requests (500).",
        output::percent(AUDIT_RATE),
        output::percent(BOOST_RATE),
        RECERTIFY.total(),
    )
}

/// How often certified answers differed while the drift was not found yet, and under the new certificate.
fn promise_kept(recovery: &Recovery) -> String {
    let mut text = String::new();
    if let Some(broken) = recovery.disagreement_until_alarm {
        let _ = write!(
            text,
            " From drift to alarm, {} of the requests got a certified answer that differs from the cloud's, where {} was promised: \
             audits end that, and nothing bounds it until they do.",
            percent(Some(broken)),
            output::percent(calibrate::target().alpha()),
        );
    }
    if let Some(kept) = recovery.disagreement_since_renewal {
        let _ = write!(text, " Under the new certificate, {} did.", percent(Some(kept)));
    }
    text
}

fn devices(report: &Report) -> String {
    let (edge, cloud) = (&report.parts.edge.device, &report.parts.cloud.device);
    let mut text = if edge == cloud {
        format!("Both models ran on {edge}.")
    } else {
        format!("The device's model ran on {edge}, the cloud's on {cloud}.")
    };
    if report.on_software_gpu() {
        text.push_str(" That is a GPU emulated on the CPU: good for checks, slower than --device cpu.");
    }
    text
}

fn statuses(attempt: &Attempt) -> String {
    match attempt {
        Ok(certificate) => format!(
            "`certified` means: under the certificate, {}, as long as requests are like those that it was made by. `uncertified` means \
             what it says: nothing bounds how often such an answer differs from the cloud's.",
            promise(certificate)
        ),
        Err(_) => "`uncertified` means what it says: there is no certificate, so nothing bounds how often a local answer differs \
                   from the cloud's."
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn a_sentence_claims_no_more_than_what_happened() {
        let tally = Tally { requests: 5, ..Tally::default() };
        assert!(cut(&tally).contains("only 0 of 5 requests were answered"));
        assert!(cut(&Tally::default()).contains("all 0 requests alone"));
        assert!(healed(&tally).contains("the cloud answered none of 5 requests"));
        assert!(!healed(&tally).contains("resumed"));
        assert!(normal(&tally).contains("0 of 5 requests itself"));
    }

    #[test]
    fn a_story_is_told_as_far_as_it_went() {
        let unused = Recovery { drift: 50, ..Recovery::default() };
        assert!(recovery(&unused).contains("No certificate was in use"));
        let unnoticed = Recovery { in_use: true, ..unused };
        assert!(recovery(&unnoticed).contains("no alarm in this run"));
        let found = Recovery { alarm: Some(61), disagreement_until_alarm: Some(0.05), ..unnoticed };
        let text = recovery(&found);
        assert!(text.contains("after 11 requests of drift") && text.contains("No new one is in use yet"), "{text}");
        assert!(text.contains("5.0 %") && !text.contains("Under the new certificate"), "{text}");
        let overcome = Recovery { renewed: Some(91), disagreement_since_renewal: Some(0.01), ..found };
        let text = recovery(&overcome);
        assert!(
            text.contains("in use 30 requests later") && text.contains("Under the new certificate, 1.0 %"),
            "{text}"
        );
    }

    #[test]
    fn without_a_certificate_nothing_is_said_to_be_promised() {
        let text = words(&report(|_| {}));
        assert!(text.contains("there is no certificate") && !text.contains("alarm"), "{text}");
    }
}
