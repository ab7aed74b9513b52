"""Images as they are stored in a block, to be stored again in another file: nothing is decoded to labels and quantised anew."""

from __future__ import annotations

import numpy as np

from softlabel_codec.block.layout import Layout
from softlabel_codec.container.pending import PendingImage
from softlabel_codec.sampler import crop_stream


def stored_image(layout: Layout, content: bytes, slot: int, key: str) -> PendingImage:
    """Return an image of a block as the writer had it; CorruptError if the block violates the specification.

    Parameters
    ----------
    layout : Layout
        How the blocks of the file are laid out.
    content : bytes
        Content of the block.
    slot : int
        Position of the image in the block.
    key : str
        Its key.
    """
    streams = np.array([crop_stream(key)]) if layout.derived else None
    found, images = layout.unpack([content], np.zeros(1, np.int64), np.array([slot]), None, streams)
    (height, width), (num_crops,) = images.image_sizes[0].tolist(), images.image_rows.tolist()
    geometry, flips = (None, None) if layout.derived else (found.crops, found.flips)
    crc32 = None if images.image_crc32s is None else int(images.image_crc32s[0])
    return PendingImage(key, (height, width), num_crops, geometry, flips, found.codes, *layout.quantiser.num_entries(found.codes), crc32)
