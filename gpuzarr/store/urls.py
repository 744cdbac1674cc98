"""Targets to stores: paths, URLs, mappings, archives by suffix.

fsspec and zipfile are imported when a target needs them, so that local reads start fast.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Any

from gpuzarr.errors import ArgumentError, GpuzarrError, MissingDependencyError, NotFoundError, StoreError
from gpuzarr.store.base import Store
from gpuzarr.store.local import LocalStore
from gpuzarr.store.memory import MappingStore

_REFERENCES = (".json", ".zst", ".zstd", ".gz", ".parq", ".parquet", ".parq/", ".parquet/")
_EXTRAS = {"s3": "s3", "s3a": "s3", "http": "http", "https": "http"}


def open_store(target: Any, storage_options: Mapping[str, Any] | None = None, create: bool = False) -> Store:
    """The store that `target` names: a path, a URL, a reference set, a mapping, or a store of gpuzarr,
    zarr-python or obstore. `create`: a local directory need not be there yet.

    `storage_options` are those of fsspec, of `store.remote` and `store.references`; a local directory takes
    `follow_symlinks`.
    """
    options = dict(storage_options or {})
    if isinstance(target, (str, os.PathLike)):
        url = os.fspath(target)
        bare = url.split("?")[0] if "://" in url else url
        if bare.lower().endswith(_REFERENCES) or url.startswith("reference:"):
            from gpuzarr.store.references import looks_like_references, open_reference_set

            if looks_like_references(url) and not (create or _is_hierarchy(url)):
                return open_reference_set(url, options)
        if "://" in url or "::" in url:
            if url.startswith("file://"):
                return _local(url.removeprefix("file://"), options, create)
            return _remote(url, options)
        return _local(url, options, create)
    if isinstance(target, Mapping):
        return MappingStore(target)
    if isinstance(target, Store):
        return target
    return _of_another_library(target, options)


def _is_hierarchy(path: str) -> bool:
    """Whether a local directory only happens to have the name of a reference set."""
    return os.path.isdir(path) and not path.rstrip("/").lower().endswith((".parq", ".parquet"))


def _of_another_library(target: Any, options: dict[str, Any]) -> Store:
    """A store of zarr-python or obstore, by the names of its classes: neither is imported for others."""
    from gpuzarr.store.zarr_store import ZarrStore, is_zarr_store

    if is_zarr_store(target):
        kind = type(target)
        if (kind.__module__, kind.__name__) == ("zarr.storage._local", "LocalStore") and not target.read_only:
            return LocalStore(os.path.abspath(target.root))
        return ZarrStore(target)
    if any(one.__module__.partition(".")[0] == "obstore" for one in type(target).__mro__):
        from gpuzarr.store.remote import of_obstore

        return of_obstore(target, options)
    raise ArgumentError(
        f"cannot open a {type(target).__name__}",
        hint="give a path, a URL, a mapping, or a store of gpuzarr, zarr-python or obstore",
    )


def _local(path: str, options: dict[str, Any], create: bool) -> Store:
    follow = options.pop("follow_symlinks", False)
    if options:
        raise ArgumentError(f"a local path takes no storage option {', '.join(sorted(options))}")
    absolute = os.path.abspath(os.path.expanduser(path))
    if os.path.isfile(absolute):
        if not absolute.lower().endswith(".zip"):
            raise StoreError(
                f"{path} is a file, and not a .zip", hint="open the directory that holds the array"
            )
        from gpuzarr.store.zip import ZipStore

        return ZipStore(absolute, absolute)
    if create and absolute.lower().endswith(".zip"):
        raise ArgumentError(f"{path}: archives are only read", hint="write a directory, and zip it")
    if not create and not os.path.isdir(absolute):
        raise NotFoundError(f"no such directory: {absolute}")
    return LocalStore(absolute, follow)


def _remote(url: str, options: dict[str, Any]) -> Store:
    from gpuzarr.store.remote import is_remote, open_remote, secrets_of, shown
    from gpuzarr.store.remote.opening import OWN

    if is_remote(url):
        if not url.split("?")[0].lower().endswith(".zip"):
            return open_remote(url, options)
        options = {name: value for name, value in options.items() if name not in OWN}  # fsspec reads it
    import fsspec

    from gpuzarr.store.fsspec import FsspecStore

    protocol = url.split("::")[0].split("://", 1)[0]
    bare = shown(url.split("?")[0])  # what follows may be a signature
    failure: Exception
    try:
        fs, root = fsspec.core.url_to_fs(url, **options)
        if not root.lower().endswith(".zip"):
            return FsspecStore(fs, root.rstrip("/"), bare.rstrip("/"))
        from gpuzarr.store.zip import ZipStore

        return ZipStore(partial(fs.open, root, "rb"), bare)
    except GpuzarrError:
        raise
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        hint = f'pip install "gpuzarr[{extra}]"' if extra else f"install what fsspec needs for {protocol}"
        failure = MissingDependencyError(f"{bare} needs a package that is missing: {error}", hint=hint)
    except TypeError as error:
        said = shown(error, secrets_of(options))
        failure = ArgumentError(f"cannot open {bare}: {said}", hint="is a storage option wrong?")
    except Exception as error:  # as many kinds as there are file systems
        said = shown(error, secrets_of(options)) or type(error).__name__
        failure = StoreError(f"cannot open {bare}: {said}")
    raise failure  # outside of the handler of theirs, whose text may hold a credential
