"""A simulated world of faults around a real run, on one seeded event loop.

Controllers, annotating models, people, storage, database and clock are steps of one loop: their
code is the product's, and only the edges of the world are simulated (time, threads, the provider's
server, the calls of storage and database, the people, and death). One seed is one history, which is
repeated to the last event by `python -m tests.simulation --seed N --trace`.
"""

import sys
from pathlib import Path

# `helpers` is imported as the tests import it.
sys.path.insert(0, str(Path(__file__).parents[1]))
