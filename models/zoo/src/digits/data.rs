//! The base images: `data/digits.bin`, compiled in. `data/make_digits.py` makes it and draws its format;
//! `data/ATTRIBUTION.md` says where the images come from.

use std::sync::LazyLock;

/// Height and width of a base image.
pub(super) const BASE: usize = 8;
/// The largest grey value of a base image.
pub(super) const LARGEST_GREY: u8 = 16;

const MAGIC: &[u8; 8] = b"HDGDIGIT";
const HEADER: usize = 16;
const VERSION: u8 = 1;

static FILE: &[u8] = include_bytes!("../../data/digits.bin");

static IMAGES: LazyLock<BaseImages> = LazyLock::new(|| parse(FILE).expect("the compiled-in data is whole"));

/// What an image may be used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// Training draws from it.
    Train,
    /// The field stream draws from it.
    Field,
}

/// One image as it is in the data set.
#[derive(Clone, Copy, Debug)]
pub(super) struct BaseImage {
    /// Its index in the data set.
    pub(super) index: usize,
    /// The digit, 0..9.
    pub(super) label: u8,
    /// Grey values 0..16, row by row.
    pub(super) grey: &'static [u8; BASE * BASE],
}

/// All images, by role.
pub(super) struct BaseImages {
    train: Vec<BaseImage>,
    field: Vec<BaseImage>,
}

impl BaseImages {
    pub(super) fn of(&self, role: Role) -> &[BaseImage] {
        match role {
            Role::Train => &self.train,
            Role::Field => &self.field,
        }
    }
}

pub(super) fn images() -> &'static BaseImages {
    &IMAGES
}

/// The compiled-in file itself, for its digest.
pub(super) fn file() -> &'static [u8] {
    FILE
}

fn parse(file: &'static [u8]) -> Option<BaseImages> {
    let (header, rest) = file.split_at_checked(HEADER)?;
    let count = u32::from_le_bytes(header[8..12].try_into().ok()?) as usize;
    let shape = [BASE as u8, BASE as u8, LARGEST_GREY, VERSION];
    if &header[..8] != MAGIC || header[12..] != shape {
        return None;
    }
    let (labels, rest) = rest.split_at_checked(count)?;
    let (roles, grey) = rest.split_at_checked(count)?;
    let (grey, left) = grey.as_chunks::<{ BASE * BASE }>();
    if grey.len() != count || !left.is_empty() {
        return None;
    }
    let mut images = BaseImages { train: Vec::new(), field: Vec::new() };
    for (index, grey) in grey.iter().enumerate() {
        let image = BaseImage { index, label: labels[index], grey };
        match roles[index] {
            0 => images.train.push(image),
            1 => images.field.push(image),
            _ => return None,
        }
    }
    Some(images)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn base_images_of_train_and_field_are_disjoint_and_together_all() {
        let indices = |role| images().of(role).iter().map(|image| image.index).collect::<HashSet<_>>();
        let (train, field) = (indices(Role::Train), indices(Role::Field));
        assert_eq!((train.len(), field.len()), (1000, 797));
        assert!(train.is_disjoint(&field));
        // Not only other places in the file: other pictures.
        let grey = |role| images().of(role).iter().map(|image| image.grey).collect::<HashSet<_>>();
        assert!(grey(Role::Train).is_disjoint(&grey(Role::Field)));
    }

    #[test]
    fn every_digit_is_there_for_training_and_in_the_field_within_its_range() {
        for role in [Role::Train, Role::Field] {
            let labels: HashSet<u8> = images().of(role).iter().map(|image| image.label).collect();
            assert_eq!(labels, (0..10).collect());
            assert!(images().of(role).iter().all(|image| image.grey.iter().all(|&grey| grey <= LARGEST_GREY)));
        }
    }

    #[test]
    fn a_file_that_is_cut_or_of_another_version_is_not_read() {
        assert!(parse(&FILE[..FILE.len() - 1]).is_none());
        assert!(parse(&FILE[..HEADER - 1]).is_none());
        assert!(parse(b"HDGDIGIT\x00\x00\x00\x00\x08\x08\x10\x02").is_none());
        assert!(parse(b"HDGDIGIT\xff\xff\xff\xff\x08\x08\x10\x01").is_none());
    }
}
