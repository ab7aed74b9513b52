"""`slcodec demo`: every step in one or two minutes, on photographs that come with scikit-image."""

from softlabel_codec.demo.story import run_demo

__all__ = ["run_demo"]
