//! The widest vectors that this machine has.

use pulp::WithSimd;

/// Whether there are vectors that are worth a kernel of their own.
pub(super) fn is_available() -> bool {
    on_this_machine::is_available()
}

/// Runs `op` compiled for those vectors.
pub(super) fn run<O: WithSimd>(op: O) -> O::Output {
    on_this_machine::run(op)
}

#[cfg(target_arch = "x86_64")]
mod on_this_machine {
    use pulp::x86::{V3, V4};
    use pulp::{Simd, WithSimd};

    pub(super) fn is_available() -> bool {
        V3::try_new().is_some()
    }

    pub(super) fn run<O: WithSimd>(op: O) -> O::Output {
        if let Some(simd) = V4::try_new() {
            Simd::vectorize(simd, op)
        } else if let Some(simd) = V3::try_new() {
            Simd::vectorize(simd, op)
        } else {
            Simd::vectorize(pulp::Scalar, op)
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod on_this_machine {
    use pulp::{Arch, WithSimd};

    pub(super) fn is_available() -> bool {
        !matches!(Arch::new(), Arch::Scalar)
    }

    pub(super) fn run<O: WithSimd>(op: O) -> O::Output {
        Arch::new().dispatch(op)
    }
}
