"""`torchrun -m softlabel_codec.teacher` is `slcodec encode` in several processes, which make a label set together."""

import sys

from softlabel_codec.cli.main import main

main(["encode", *sys.argv[1:]], prog_name="slcodec")
