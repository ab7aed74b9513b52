"""`torchrun -m softlabel_codec.trainer` is `slcodec train` in several processes."""

import sys

from softlabel_codec.cli.main import main

main(["train", *sys.argv[1:]], prog_name="slcodec")
