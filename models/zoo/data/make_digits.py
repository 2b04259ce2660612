"""Makes digits.bin from scikit-learn's copy of the UCI handwritten digits (see ATTRIBUTION.md).

    pip install scikit-learn && python make_digits.py

The file, all numbers little-endian:

    offset  bytes     what
    0       8         magic "HDGDIGIT"
    8       4         n, the number of images (u32)
    12      4         height, width, largest grey value, version 1 (u8 each)
    16      n         labels, 0..9
    16+n    n         roles: 0 = train, 1 = field
    16+2n   n*h*w     grey values, row by row

The role of each image is drawn here, once, from SPLIT_SEED, and is part of the data: models train on images of role 0
only, and the field stream is made from images of role 1 only.
"""

import hashlib
import pathlib
import struct

import numpy
from sklearn.datasets import load_digits

SPLIT_SEED = 7
TRAIN_IMAGES = 1000


def main() -> None:
    digits = load_digits()
    count, height, width = digits.images.shape
    order = numpy.random.RandomState(SPLIT_SEED).permutation(count)
    roles = numpy.ones(count, dtype=numpy.uint8)
    roles[order[:TRAIN_IMAGES]] = 0
    header = b"HDGDIGIT" + struct.pack("<IBBBB", count, height, width, 16, 1)
    labels = digits.target.astype(numpy.uint8)
    grey = digits.images.astype(numpy.uint8)
    data = header + labels.tobytes() + roles.tobytes() + grey.tobytes()
    path = pathlib.Path(__file__).with_name("digits.bin")
    path.write_bytes(data)
    print(f"{path.name}: {len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}")


if __name__ == "__main__":
    main()
