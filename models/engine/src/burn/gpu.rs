//! What graphics adapters get wrong: operators that burn 0.22.1 (cubecl 0.11.3, wgpu 30.0.1) lacks there or answers
//! wrongly. Their nodes run on the CPU and are listed (`Runnable::on_cpu`).

/// Operators that do not run on a graphics adapter, each with the reason.
const LACKING: [(&str, &str); 0] = [];

/// Whether nodes of this operator run on the CPU.
pub(super) fn lacks(op: &str) -> bool {
    LACKING.iter().any(|(lacking, _)| *lacking == op)
}
