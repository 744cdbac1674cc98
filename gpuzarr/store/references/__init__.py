"""Reference sets: files that say where the chunks of an array lie in other files, as kerchunk, VirtualiZarr
and tifffile write them (https://fsspec.github.io/kerchunk/spec.html).

    opening    where a set lies → a store
    store      keys → bytes              answers, merge: with few requests
    document   JSON                      text, templates, gen
    parquet    directories of Parquet    records
    targets    what a set names → stores, and what it may not name
"""

from gpuzarr.store.references.opening import looks_like_references, open_reference_set, open_references
from gpuzarr.store.references.store import ReferenceStore, StreamingReferenceStore
from gpuzarr.store.references.targets import split_target

__all__ = [
    "ReferenceStore",
    "StreamingReferenceStore",
    "looks_like_references",
    "open_reference_set",
    "open_references",
    "split_target",
]
