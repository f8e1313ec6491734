"""Settings of the whole test session, before torch is imported."""

import os
import signal

# As the command line does: worker threads soon sleep, since tests share their cores with other jobs.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")
os.environ.setdefault("INSTRUCTGPT_PROGRESS", "0")

# A job started in the background of a script ignores Ctrl-C, and so would all that it starts; tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)
