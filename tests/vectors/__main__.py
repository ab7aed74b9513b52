"""Write the test vectors that are not there yet.

They are written once and never again: a reader of any later version must read the valid ones and find the same, and refuse the
invalid ones for the same reason. So what is there is never overwritten; new ones can be added.

usage: cd tests && python -m vectors
"""

from vectors import invalid, sets, valid

if __name__ == "__main__":
    valid.write_missing()
    invalid.write_missing()
    sets.write_missing()
