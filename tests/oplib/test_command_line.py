"""What the commands share."""

import subprocess
import sys

TALKS = """
import sys
from oplib.command_line import run_command
sys.exit(run_command("talks", lambda _given: print("a line\\n" * 100_000) or 0, []))
"""


def test_a_reader_that_has_gone_is_no_error():
    """As with `| head`: the output ends, nothing is said, and the status is that of a closed pipe."""
    with subprocess.Popen(
        [sys.executable, "-c", TALKS], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"a line\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141
