"""`slcodec demo`: the whole story in two minutes, on real images that come with scikit-learn."""

from softlabel_codec.demo.story import run_demo

__all__ = ["run_demo"]
