"""`python -m softlabel_codec` is `slcodec`."""

from softlabel_codec.cli.main import main

main(prog_name="slcodec")
