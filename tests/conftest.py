"""Settings of the whole test session, before torch is imported."""

import os

# As the command line does: worker threads soon sleep, since tests share their cores with other jobs.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")
os.environ.setdefault("INSTRUCTGPT_PROGRESS", "0")
