"""Stores behind a server.

opening      a URL and storage options → a store
options      fsspec's names in obstore's words
base         RemoteStore, BucketStore
retry        when a request is sent again, how many are in flight
flow         many answers, each as it comes
transport    what they ask of a library, one request at a time
obstore      one such library; said: its words in ours
fsspec       the other
html_index   what HTTP servers show of directories
"""

from gpuzarr.store.remote.base import REMOTE, BucketStore, RemoteStore
from gpuzarr.store.remote.opening import is_remote, of_obstore, open_remote
from gpuzarr.store.remote.transport import secrets_of, shown

__all__ = [
    "REMOTE",
    "BucketStore",
    "RemoteStore",
    "is_remote",
    "of_obstore",
    "open_remote",
    "secrets_of",
    "shown",
]
