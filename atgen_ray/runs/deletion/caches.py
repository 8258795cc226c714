"""Caches without what goes: the shared caches of runs, and the copies that this node has."""

from collections.abc import Collection
from contextlib import suppress

import pyarrow as pa
import pyarrow.compute as pc

from atgen_ray.core.node_cache import drop_copy
from atgen_ray.runs.deletion.certificate import Certificate, Remaining, Removed
from atgen_ray.runs.doctor.examination import CACHE
from atgen_ray.runs.shared_cache import KEY
from atgen_ray.store.run_folder import RunFolder, open_storage


def clean_caches(
    roots: Collection[str], contents: frozenset[str], out: Certificate, rehearse: bool
) -> None:
    """Remove the rows of `contents` from the shared caches below `roots`; what another run still
    needs is computed again.
    """
    wanted = pa.array(sorted(contents), pa.string())
    for root in sorted(set(roots)) if contents else []:
        fs, path = open_storage(root)
        with suppress(FileNotFoundError):
            for each in fs.ls(f"{path}/runs", detail=False):
                name = each.rstrip("/").rpartition("/")[2]
                if CACHE.fullmatch(name):
                    gone = _clean(RunFolder(root, name), wanted, rehearse)
                    out.add(Removed(f"cache {name}", "rows", gone))


def _clean(cache: RunFolder, wanted: pa.Array, rehearse: bool) -> int:
    gone = 0
    for rel in cache.list("rows"):
        table = cache.read_table(rel)
        kept = table.filter(pc.invert(pc.is_in(table[KEY], wanted)))
        if len(kept) == len(table):
            continue
        gone += len(table) - len(kept)
        if not rehearse and len(kept):
            cache.write_table(rel, kept)
        elif not rehearse:
            cache.remove(rel)
    return gone


def drop_copies(folder: RunFolder, rels: Collection[str], out: Certificate, rehearse: bool) -> None:
    """Remove this node's copies of files of an object store, before these change or go."""
    if folder.is_local:
        return
    gone = 0
    for rel in rels:
        with suppress(FileNotFoundError):
            gone += drop_copy(folder.refer(rel).version or "", rehearse)
    out.add(Removed("cache of this node", "copies of files", gone))
    out.add(
        Remaining(
            "caches of other nodes",
            f"copies of files of run {folder.name}, if they were read there",
            "no other node is reached from here",
            "the longest unused go first (ATGEN_CACHE_GB); or delete the folder storage of "
            "atgen-ray in the users' cache of those nodes",
        )
    )
