"""Host or device: which of the two is expected to decode some chunks sooner.

    host     a step of Python for each chunk · decoding on all threads · decoded bytes over the link
    device   launches and a wait · the longest stream, which nothing shortens · all bytes at the full rate ·
             encoded bytes over the link

A device wins by doing everything at once, so it loses where there is little: few small chunks, or a few huge
streams that have to be decoded from their first byte to their last. The rates are orders of magnitude, taken
from what others published and from this project's own host benchmarks; they have not been measured on a GPU
here yet. What is decided is shown by `Array.explain`, and overruled by the setting `strict`.
"""

from __future__ import annotations

from dataclasses import dataclass

from gpuzarr import config
from gpuzarr.codecs.chain import Chain

_WAVE = 200e-6  # seconds: some ten launches and one wait
_CHUNK = 15e-6  # seconds of Python that the host takes for a chunk, on whatever thread
_LINK = 50e9  # bytes a second from pinned memory
_STREAM_NBYTES = 256 << 10  # what codecs that cut chunks into streams make at most


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds."""

    host: float
    device: float


def estimate(chain: Chain, chunks: int) -> Estimate:
    """What decoding `chunks` chunks takes, from the first stage that has a device form on."""
    nbytes = chain.spec.limit
    total = chunks * nbytes
    host, device = chunks * _CHUNK + total / _LINK, _WAVE + total / _LINK / 2
    for stage in chain.stages[chain.device_from :]:
        rates = stage.codec.rates
        longest = min(nbytes, _STREAM_NBYTES) if rates.cuts else nbytes
        host += total / rates.host / min(config.current().threads, max(chunks, 1))
        device += longest / rates.stream + total / rates.device
    return Estimate(host, device)
