"""Stores behind a server.

opening   a URL and storage options → a store           options   fsspec's names in obstore's words
base      RemoteStore, BucketStore, and what they ask of a transport
retry     when a request is sent again, how many are in flight        flow   many answers, each as it comes
obstore, fsspec   the transports                        html_index   what HTTP servers show of directories
"""

from gpuzarr.store.remote.base import REMOTE, BucketStore, RemoteStore, secrets_of, shown
from gpuzarr.store.remote.opening import is_remote, of_obstore, open_remote

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
