"""One thread a worker: two workers with a thread pool each on two cores wait for one another and take twice as long."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported, here and in the processes that tests start
