//! The field stream of the bundled task, calm or under drift, as command-line arguments.

use anyhow::Result;
use clap::Args;
use hedge_zoo::digits::{self, Classes, Conditions, Drift, FieldStream};

use crate::failure::bad_usage;

/// What the requests of a task look like.
#[derive(Args)]
pub(super) struct Field {
    /// How the field differs from training: none, less-noise, easier, rotation, noise or drift (rotation and noise).
    #[arg(long, default_value_t = Drift::None)]
    drift: Drift,
    /// The noise's standard deviation, from and to, as shares of full brightness.
    #[arg(long, value_name = "LOW,HIGH", value_delimiter = ',')]
    noise: Option<Vec<f32>>,
    /// The largest rotation in degrees, each way.
    #[arg(long, value_name = "DEG")]
    rotation: Option<f64>,
    /// The digits that occur.
    #[arg(long, value_name = "0,1,…", value_delimiter = ',')]
    classes: Option<Vec<u8>>,
}

impl Field {
    pub(super) fn stream(&self, split: digits::Split, seed: u64) -> Result<FieldStream> {
        Ok(FieldStream::under(self.conditions()?, split, seed))
    }

    /// The drift's conditions with what is given beside it.
    fn conditions(&self) -> Result<Conditions> {
        let mut conditions = self.drift.conditions();
        if let Some(noise) = &self.noise {
            conditions.noise = noise_range(noise)?;
        }
        if let Some(degrees) = self.rotation {
            conditions.half_angle = half_angle(degrees)?;
        }
        if let Some(digits) = &self.classes {
            conditions.classes =
                Classes::of(digits).map_err(|error| bad_usage(error, "name some, such as --classes 0,6,7"))?;
        }
        Ok(conditions)
    }
}

fn noise_range(noise: &[f32]) -> Result<(f32, f32)> {
    match noise {
        &[low, high] if (0.0..=high).contains(&low) && high <= 1.0 => Ok((low, high)),
        _ => Err(bad_usage(
            "--noise is no range of shares of full brightness",
            "give two numbers of 0 to 1, the smaller one first, such as --noise 0.02,0.13",
        )),
    }
}

fn half_angle(degrees: f64) -> Result<f32> {
    // Beyond, a six is a nine.
    const MOST: f64 = 90.0;
    if (0.0..=MOST).contains(&degrees) {
        // The last bit of a tangent may differ between platforms; rounding to f32 takes it away.
        Ok((degrees / 2.0).to_radians().tan() as f32)
    } else {
        Err(bad_usage(format_args!("--rotation {degrees} is out of range"), "give degrees of 0 to 90"))
    }
}
