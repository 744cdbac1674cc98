"""Random numbers that are functions of a key and an index, so that any box can be drawn by itself.

    (seed, epoch, purpose) → key          NumPy's SeedSequence
    (key, index)           → words        Philox 4x32-10 (Salmon et al., 2011), a block of four 32-bit words
    (key, index, size)     → place        a permutation of range(size), without a table: a Feistel network

All are integer arithmetic on columns: the same on every machine, in every process, with every NumPy.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Int64s = NDArray[np.int64]
Words = NDArray[np.uint64]

# What numbers are for: two purposes never share a key.
BOX: Final = 0
BLOCK: Final = 1
SHUFFLE: Final = 2
WINDOW: Final = 3
TRANSFORM: Final = 4
CUSTOM: Final = 5

_LOW: Final = np.uint64(0xFFFFFFFF)
_HALF: Final = np.uint64(32)
_MULTIPLIERS: Final = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL: Final = (0x9E3779B9, 0xBB67AE85)
_ROUNDS: Final = 8  # of the Feistel network


def key_of(seed: int, epoch: int, purpose: int) -> tuple[int, int]:
    """Two 32-bit words."""
    low, high = np.random.SeedSequence(seed, spawn_key=(epoch, purpose)).generate_state(2, np.uint32)
    return int(low), int(high)


def generator(seed: int, epoch: int, purpose: int, index: int) -> np.random.Generator:
    """NumPy's generator for one thing: a transform, a user's sampler."""
    entropy = np.random.SeedSequence(seed, spawn_key=(epoch, purpose, index))
    return np.random.Generator(np.random.Philox(entropy))


def words(key: tuple[int, int], index: Int64s, count: int) -> Words:
    """`count` words of 64 bits for each index: uint64[n, count]."""
    blocks = -(-count // 2)
    at = np.repeat(index.astype(np.uint64), blocks)
    which = np.tile(np.arange(blocks, dtype=np.uint64), len(index))
    a, b, c, d = philox(key, (at & _LOW, at >> _HALF, which, np.zeros_like(which)))
    pairs = np.stack((a | (b << _HALF), c | (d << _HALF)), axis=1)
    return pairs.reshape(len(index), 2 * blocks)[:, :count]


def philox(key: tuple[int, int], counter: tuple[Words, Words, Words, Words]) -> tuple[Words, ...]:
    """Philox 4x32-10 of many counters: columns of 32-bit words, held in 64 bits."""
    k0, k1 = key
    c0, c1, c2, c3 = counter
    for _ in range(10):
        first, second = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0 = (second >> _HALF) ^ c1 ^ np.uint64(k0)
        c2 = (first >> _HALF) ^ c3 ^ np.uint64(k1)
        c1, c3 = second & _LOW, first & _LOW
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return c0, c1, c2, c3


def below(word: Words, size: Int64s | int) -> Int64s:
    """A number in range(size) for each word. The bias is size / 2⁶⁴."""
    return (word % np.asarray(size).astype(np.uint64)).astype(np.int64)


def unit(word: Words) -> NDArray[np.float64]:
    """A number in [0, 1) for each word. Times x, it is always less than x."""
    return (word >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permuted(key: tuple[int, int], index: Int64s, size: Int64s | int, tweak: Int64s | int = 0) -> Int64s:
    """Where a shuffle of range(size) has `index`; another shuffle for each `tweak`. Columns may be mixed."""
    sizes = np.broadcast_to(np.asarray(size, np.int64), index.shape)
    tweaks = np.broadcast_to(np.asarray(tweak, np.int64), index.shape).astype(np.uint64)
    # The network permutes 2^(2 half) numbers, fewer than 4 × size; what falls outside goes in once more.
    bits = np.frexp(np.maximum(sizes - 1, 1).astype(np.float64))[1]
    half = (-(-bits // 2)).astype(np.uint64)
    place = index.astype(np.uint64)
    first = key[0] | key[1] << 32
    rounds = _mixed(np.array([(first + i) & 0xFFFFFFFFFFFFFFFF for i in range(_ROUNDS)], np.uint64))
    todo = np.flatnonzero(sizes > 1)
    while len(todo):
        place[todo] = _feistel(place[todo], half[todo], tweaks[todo], rounds)
        todo = todo[place[todo] >= sizes[todo].astype(np.uint64)]
    return place.astype(np.int64)


def _feistel(value: Words, half: Words, tweak: Words, rounds: Words) -> Words:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = value >> half, value & mask
    salt = _mixed(tweak)
    for key in rounds:
        left, right = right, left ^ (_mixed(right + salt + key) & mask)
    return (left << half) | right


def _mixed(word: Words) -> Words:
    """The finaliser of SplitMix64."""
    mixed = word + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
