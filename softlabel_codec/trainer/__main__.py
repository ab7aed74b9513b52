"""`torchrun -m softlabel_codec.trainer` is `slcodec train` in several processes."""

import os
import sys

from softlabel_codec.cli.main import main

try:
    main(["train", *sys.argv[1:]], prog_name="slcodec")
except SystemExit as ended:
    if "WORLD_SIZE" in os.environ and isinstance(ended.code, int):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended.code)  # threads of gloo sometimes abort a process while its interpreter ends, when all work is done
    raise
