"""Images: opening what they lie in, finding them by key, decoding them, and cutting crops out of them.

>>> from softlabel_codec.images import ArraySource, open_images
"""

from softlabel_codec.images.sources import ArraySource, open_images

__all__ = ["ArraySource", "open_images"]
