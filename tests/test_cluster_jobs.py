"""The jobs in `examples/cluster`: their commands, run for two shards."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from softlabel_codec import SoftLabelReader
from softlabel_codec.cli.main import main

pytestmark = pytest.mark.torch

JOBS = Path(__file__).parents[1] / "examples" / "cluster"
COMMAND = re.compile(r"(?:slcodec encode|-m softlabel_codec\.teacher)\s(.*--shards) \d+(.*--workers) 8$", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r'"\$(SLURM_ARRAY_TASK_ID|JOB_COMPLETION_INDEX)"')


@pytest.mark.parametrize("job", sorted(path.name for path in JOBS.iterdir()))
def test_the_command_of_a_job_makes_the_set(job, image_folder, teacher_file, files, tmp_path):
    image_folder.rename(tmp_path / "train")
    Path(teacher_file.removesuffix(":build")).rename(tmp_path / "teacher.py")
    start, end = COMMAND.search((JOBS / job).read_text()).groups()
    command = f"{start} 2{end} 0 --quiet" + (" --codec hard" if "--codec" not in start else "")
    for there, here in ((r"\\\n", ""), ("/(shared|data|tmp)/", f"{tmp_path}/"), ("s3://", "flaky://"), ("crops 200", "crops 4")):
        command = re.sub(there, here, command)
    for number in "01" if NUMBER.search(command) else "0":
        result = CliRunner().invoke(main, ["encode", *shlex.split(NUMBER.sub(number, command))])
        assert result.exit_code == 0, result.output
    with SoftLabelReader(shlex.split(command)[1]) as reader:
        assert (len(reader), len(reader.container.index.shards)) == (6, 2)
