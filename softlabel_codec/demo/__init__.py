"""`slcodec demo`: the whole story in a minute or two, on photographs that come with scikit-image."""

from softlabel_codec.demo.story import run_demo

__all__ = ["run_demo"]
