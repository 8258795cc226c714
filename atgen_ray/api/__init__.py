"""The Python door: the functions of `import atgen_ray`, which the command line calls as well.

Modules go by subject: `configuration` reads a configuration from a file, a preset or a dictionary;
`running` starts and plans runs; `selecting` selects without a run of many rounds; `evaluating`
scores a model on given data; `runs` looks at runs that are there; `comparing` sets runs side by
side.

Rules for this room:

- A mistake of the caller is a `UserError` with one line a mistake, the same line that the command
  line prints, and no traceback from inside (`errors.without_traceback`).
- A module here imports nothing heavy at its top, so that `import atgen_ray` takes milliseconds:
  torch, ray, transformers, pandas and the rooms that bring them come in with the first call.

Example:
    import atgen_ray

    run = atgen_ray.run("demo", overrides={"stopping.rounds": 2})
    run.labels()
"""

import logging
import warnings

# In a notebook Ray and tqdm ask for widgets, which nothing here uses, as soon as they are imported.
logging.getLogger("ray.widgets.util").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", message="IProgress not found")
