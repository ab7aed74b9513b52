"""Workloads that break off writing: kills, faults of the file system, interruptions and rivals.

Each takes its size and an empty folder, checks everything that must hold, and returns what it counted; AssertionError says what does not
hold. `test_crashes.py` runs them small, the reliability command large.
"""

from crashes.command import EncodeKills, encode_kills, recover_by_command
from crashes.disks import FullDisk, PowerFailures, full_disk, power_failures
from crashes.faults import FAULTS, faults_at_every_call
from crashes.kills import Kills, kills_at_every_call, random_kills, recover_kills_at_every_call
from crashes.rivals import Replacements, Rivals, replaced_under_readers, rivals
from crashes.workers import FullWorkers, WorkerKills, full_disk_of_one, kills_of_workers

__all__ = [
    "FAULTS",
    "EncodeKills",
    "FullDisk",
    "FullWorkers",
    "Kills",
    "PowerFailures",
    "Replacements",
    "Rivals",
    "WorkerKills",
    "encode_kills",
    "faults_at_every_call",
    "full_disk",
    "full_disk_of_one",
    "kills_at_every_call",
    "kills_of_workers",
    "power_failures",
    "random_kills",
    "recover_by_command",
    "recover_kills_at_every_call",
    "replaced_under_readers",
    "rivals",
]
