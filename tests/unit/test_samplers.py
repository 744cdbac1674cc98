"""Which boxes a sampler gives, and how often: against counts over every box there is."""

from __future__ import annotations

import itertools
import pickle
from collections import Counter
from typing import Any

import numpy as np
import pytest

import gpuzarr
from gpuzarr.errors import ArgumentError, GpuzarrError
from gpuzarr.loading import Balanced, Blocks, Custom, Grid, Listed, PatchLoader, Space, Uniform, Weighted
from gpuzarr.loading.chance import BOX, key_of, permuted, philox, words
from gpuzarr.loading.numbering import Numbering
from gpuzarr.store.memory import MappingStore
from gpuzarr.testing.store import CountingStore

RNG = np.random.default_rng(11)
SHAPE = (20, 24)
LABELS = RNG.integers(0, 4, SHAPE).astype("u1")


def array(values: np.ndarray = LABELS, chunks: Any = (8, 8)) -> Any:
    held: dict[str, bytes] = {}
    gpuzarr.save(held, values, chunks=chunks, codecs=["zstd"])
    return gpuzarr.open_array(held, device="cpu")


def loader(sampler: Any, shape: Any = (6, 5), batch_size: int = 50, **options: Any) -> PatchLoader:
    return PatchLoader(array(), shape, batch_size, sampler=sampler, **options)


def epoch(of: PatchLoader, number: int = 0) -> np.ndarray:
    """All origins of an epoch, in order."""
    return np.concatenate([of.origins(i, number) for i in range(len(of))])


def drawn(of: PatchLoader) -> np.ndarray:
    """The same, of epoch 0, at once."""
    return of.batches.origins_of(np.arange(of.boxes), 0)


def frequencies(origins: np.ndarray) -> Counter[tuple[int, ...]]:
    return Counter(map(tuple, origins.tolist()))


def every_origin(space: Space) -> list[tuple[int, ...]]:
    along = zip(space.low, space.step, space.slots, strict=True)
    return list(itertools.product(*(range(low, low + step * n, step) for low, step, n in along)))


def assert_follows(origins: np.ndarray, expected: dict[tuple[int, ...], float], spread: float = 1.0) -> None:
    """Frequencies are those of draws from `expected`: by the statistic of Pearson, which is its number of
    classes on average; `spread` more where draws come in groups. What cannot be drawn is not."""
    found, total = frequencies(origins), sum(expected.values())
    assert set(found) <= {box for box, weight in expected.items() if weight}
    mean = {box: len(origins) * weight / total for box, weight in expected.items() if weight}
    statistic = sum((found[box] - n) ** 2 / n for box, n in mean.items())
    degrees = len(mean) - 1
    assert statistic < spread * (degrees + 5 * (2 * degrees) ** 0.5)


# ---- numbers


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_is_that_of_its_authors(counter: Any, key: Any, expected: Any) -> None:
    """The known answers that Random123 comes with."""
    columns = tuple(np.array([word], np.uint64) for word in counter)
    assert tuple(int(word[0]) for word in philox(key, columns)) == expected


def test_words_depend_on_their_index_alone() -> None:
    key, index = key_of(5, 2, BOX), np.array([7, 1 << 40, 0, 3])
    together = words(key, index, 5)
    assert together.shape == (4, 5)
    assert len(np.unique(together)) == together.size
    for i, one in enumerate(index):
        assert (words(key, np.array([one]), 5) == together[i]).all()
    assert (words(key, index, 3) == together[:, :3]).all()
    assert not (words(key_of(5, 3, BOX), index, 5) == together).any()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 65, 1000])
def test_a_shuffle_has_every_place_once(size: int) -> None:
    places = np.arange(size)
    found = permuted((1, 2), places, size)
    assert sorted(found.tolist()) == places.tolist()
    if size > 60:
        assert (found != permuted((1, 3), places, size)).any()
        assert (found != permuted((1, 2), places, size, 1)).any()


def test_shuffles_of_several_sizes_and_of_huge_ones() -> None:
    sizes = np.array([3, 3, 3, 5, 5, 5, 5, 5])
    found = permuted((9, 9), np.array([0, 1, 2, 0, 1, 2, 3, 4]), sizes, np.array([0] * 3 + [7] * 5))
    assert sorted(found[:3].tolist()) == [0, 1, 2]
    assert sorted(found[3:].tolist()) == [0, 1, 2, 3, 4]
    huge = (1 << 52) + 1
    ends = permuted((1, 2), np.array([0, 1, huge - 2, huge - 1]), huge)
    assert len(set(ends.tolist())) == 4
    assert 0 <= ends.min() <= ends.max() < huge


def test_small_shuffles_are_alike_often() -> None:
    found = permuted((4, 4), np.tile(np.arange(3), 1200), 3, np.repeat(np.arange(1200), 3))
    seen = frequencies(found.reshape(-1, 3))
    assert len(seen) == 6
    assert sum((n - 200) ** 2 / 200 for n in seen.values()) < 25


# ---- drawn


ORDERS = ["random", Blocks((8, 8), at_once=3, per_block=4)]
CORRELATED = 4.0  # boxes of one block come together: at most as many as `per_block`


@pytest.mark.parametrize("order", ORDERS, ids=["random", "blocks"])
def test_uniform_boxes(order: Any) -> None:
    of = loader(Uniform(20_000), order=order)
    origins = drawn(of)
    assert len(origins) == 20_000
    expected = {(y, x): 1.0 for y in range(20 - 6 + 1) for x in range(24 - 5 + 1)}
    assert set(expected) == set(every_origin(of.space))
    assert_follows(origins, expected, 1.0 if order == "random" else CORRELATED)


def test_an_epoch_has_as_many_boxes_as_lie_side_by_side() -> None:
    assert loader(None).boxes == 3 * 4
    assert loader(None, (30, 24), mode="edge").boxes == 1


@pytest.mark.parametrize("order", ORDERS, ids=["random", "blocks"])
@pytest.mark.parametrize("stored", [False, True])
def test_weighted_boxes(order: Any, stored: bool) -> None:
    """As often as the weight at their centre says, at the edges too."""
    weights = RNG.random(SHAPE).astype("f4") * (RNG.random(SHAPE) < 0.5)
    of = loader(Weighted(array(weights) if stored else weights, count=20_000), order=order)
    expected = {(y, x): float(weights[y + 3, x + 2]) for y, x in every_origin(of.space)}
    assert_follows(drawn(of), expected, 1.0 if order == "random" else CORRELATED)


def test_weights_of_a_label() -> None:
    of = loader(Weighted(LABELS, weigh=lambda label: label == 2, count=5000))
    centres = epoch(of) + np.array([3, 2])
    assert set(LABELS[tuple(centres.T)].tolist()) == {2}
    assert len(frequencies(centres)) == (LABELS[3:18, 2:22] == 2).sum()


def test_a_coarse_mask_counts_with_the_boxes_that_each_element_stands_for() -> None:
    """At scales of 4 and 8: elements at the edges hold fewer centres, and weigh less."""
    mask = np.array([[0, 1, 5], [2, 0, 1], [1, 1, 1], [3, 1, 1], [9, 9, 2]], "u2")
    of = loader(Weighted(mask, scale=(4, 8), count=20_000), order=Blocks((8, 8), at_once=2, per_block=1))
    expected = {(y, x): float(mask[(y + 3) // 4, (x + 2) // 8]) for y, x in every_origin(of.space)}
    assert_follows(drawn(of), expected, 1.5)


def test_centres_may_lie_at_the_very_edge_where_boxes_may_reach_over_it() -> None:
    mask = np.zeros(SHAPE, bool)
    mask[0, 0] = mask[19, 23] = True
    of = loader(Weighted(mask, count=100), mode="reflect", overhang=4)
    assert set(frequencies(epoch(of))) == {(-3, -2), (16, 21)}


def test_balanced_boxes() -> None:
    """Classes alike, and boxes of a class alike."""
    labels = np.zeros(SHAPE, "i8")
    labels[5:9, 5:9] = 1 << 40
    labels[10:, 12:] = -3
    centres = labels[3:18, 2:22]
    for order in ORDERS:
        of = loader(Balanced(array(labels), count=12_000), order=order)
        expected = {(y, x): 1 / (centres == labels[y + 3, x + 2]).sum() for y, x in every_origin(of.space)}
        assert_follows(drawn(of), expected, 1.0 if order == "random" else CORRELATED)


def test_balanced_by_weights_among_some_classes() -> None:
    of = loader(Balanced(LABELS, classes=[3, 1], weights=[1, 3], count=8000))
    found = Counter(LABELS[tuple((drawn(of) + np.array([3, 2])).T)].tolist())
    assert set(found) == {1, 3}
    assert abs(found[1] - 6000) < 5 * (8000 * 3 / 16) ** 0.5


def test_a_window_has_few_blocks_and_as_many_boxes_of_each_as_asked() -> None:
    for sampler in (Uniform(1000), Weighted(LABELS, count=1000), Balanced(LABELS, count=1000)):
        of = loader(sampler, batch_size=20, order=Blocks((8, 8), at_once=5, per_block=4))
        for number in (0, 1, 49):
            blocks = frequencies(of.origins(number) // 8)
            assert len(blocks) <= 5
            assert all(n % 4 == 0 for n in blocks.values())


def test_default_blocks_are_whole_chunks_of_at_least_two_boxes() -> None:
    of = loader(None)
    assert Blocks().sides(of.space) == (16, 16)
    assert Blocks(4).sides(of.space) == (4, 4)


def test_a_mask_is_read_once_and_then_where_it_is_needed() -> None:
    held: dict[str, bytes] = {}
    gpuzarr.save(held, LABELS, chunks=(4, 4))
    store = CountingStore(MappingStore(held))
    labels = gpuzarr.open_array(store, device="cpu")
    store.forget()
    of = loader(Balanced(labels))
    assert len(store.seen) == len({request.key for request in store.seen}) == 30
    store.forget()
    of.origins(0)
    of.origins(0, 1)
    assert len(store.seen) == 30, "one block, kept"


def test_a_mask_on_a_device_is_read_on_the_host() -> None:
    held: dict[str, bytes] = {}
    gpuzarr.save(held, LABELS, chunks=(8, 8))
    on_sim = gpuzarr.open_array(held, device="sim")
    assert (epoch(loader(Balanced(on_sim))) == epoch(loader(Balanced(LABELS)))).all()


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (Weighted(np.zeros(SHAPE)), "no weight where a box"),
        (Weighted(-np.ones(SHAPE)), "negative or no finite"),
        (Weighted(np.full(SHAPE, np.nan)), "negative or no finite"),
        (Weighted(np.full(SHAPE, np.inf)), "negative or no finite"),
        (Weighted(np.ones((20, 23))), "does not lie over"),
        (Weighted(np.ones((3, 20, 24))), "for boxes of 2 axes"),
        (Weighted(np.ones(20)), "for boxes of 2 axes"),
        (Weighted(np.ones(SHAPE), scale=2), "does not lie over"),
        (Weighted(np.ones(SHAPE), scale=0), "scale of the mask"),
        (Weighted(np.ones(SHAPE, "c8")), "no number"),
        (Weighted("mask.zarr"), "is a str"),
        (Weighted(LABELS, weigh=lambda label: label[0]), "weigh made"),
        (Weighted(LABELS, weigh=lambda label: label.astype("U3")), "weigh made"),
        (Weighted(np.pad(np.ones((1, 1)), ((0, 19), (0, 23)))), "no weight where a box"),
        (Weighted(LABELS, count=0), "count=0"),
        (Balanced(LABELS, classes=[1, 9]), "class 9 does not occur"),
        (Balanced(LABELS, classes=[1, 1]), "not all different"),
        (Balanced(LABELS, classes=[]), "are none"),
        (Balanced(LABELS, weights=[1, 2]), "are not 4 positive"),
        (Balanced(LABELS, classes=[1, 2], weights=[1, 0]), "are not 2 positive"),
        (Balanced(np.full(SHAPE, np.nan)), "there are no classes"),
        (Balanced(np.zeros((20, 24, 3))), "for boxes of 2 axes"),
        (Grid(stride=0), "stride"),
        (Grid(stride=(4, 4), overlap=1), "say the same"),
        (Grid(overlap=6), "a stride of"),
        (Grid(edge="wrap"), "none of shift"),
        (Grid(edge="pad"), "needs boxes that reach"),
        (Listed(np.zeros((0, 2), int)), "no boxes"),
        (Listed([[0.5, 1.0]]), "not whole numbers"),
        (Listed([[1, 2, 3]]), "not whole numbers"),
        (Listed([[0, 0], [15, 0]]), r"box 1 at \(15, 0\): origins go from 0 to 14, 0 to 19"),
        (Listed([[-1, 0]]), r"box 0 at \(-1, 0\)"),
        (Custom(3), "no function"),  # type: ignore[arg-type]
        ("everywhere", "not whole numbers"),
    ],
)
def test_what_is_refused(sampler: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        loader(sampler)


def test_more_classes_than_there_are_sums_for() -> None:
    labels = np.arange(60 * 60).reshape(60, 60)
    with pytest.raises(ArgumentError, match=r"more than 1024 classes.*weigh="):
        PatchLoader(array(labels), (2, 2), 4, sampler=Balanced(labels))


def test_a_mask_that_lost_its_weight_is_an_error_and_no_wrong_box() -> None:
    mask = np.ones(SHAPE)
    of = loader(Weighted(mask))
    mask[:] = 0
    with pytest.raises(GpuzarrError, match="lost all its weight"):
        of.origins(0)


# ---- each once


def covered(origins: np.ndarray, box: tuple[int, int], pad: int = 0) -> np.ndarray:
    counts = np.zeros((SHAPE[0] + pad, SHAPE[1] + pad), int)
    for y, x in origins:
        counts[y : y + box[0], x : x + box[1]] += 1
    return counts


@pytest.mark.parametrize("order", ["random", Blocks((8, 8), at_once=2)], ids=["random", "blocks"])
@pytest.mark.parametrize("options", [{}, {"overlap": 2}, {"stride": (3, 4)}, {"edge": "drop"}])
def test_a_grid_has_every_box_once(order: Any, options: Any) -> None:
    of = loader(Grid(**options), order=order, batch_size=4)
    first = epoch(of)
    stride = options.get("stride", (6 - options.get("overlap", 0), 5 - options.get("overlap", 0)))
    along = [list(range(0, n - b + 1, s)) for n, b, s in zip(SHAPE, (6, 5), stride, strict=True)]
    if options.get("edge") != "drop":
        for starts, n, b in zip(along, SHAPE, (6, 5), strict=True):
            if starts[-1] < n - b:
                starts.append(n - b)
        assert covered(first, (6, 5)).min() == 1
    assert sorted(map(tuple, first.tolist())) == list(itertools.product(*along))
    again = epoch(of, 1)
    assert sorted(again.tolist()) == sorted(first.tolist())
    assert again.tolist() != first.tolist()


def test_a_grid_in_its_own_order() -> None:
    of = loader(Grid(shuffle=False), batch_size=5)
    assert epoch(of).tolist() == [[y, x] for y in (0, 6, 12, 14) for x in (0, 5, 10, 15, 19)]
    assert epoch(of, 3).tolist() == epoch(of).tolist()


def test_a_grid_that_reaches_over_the_edge() -> None:
    of = loader(Grid(edge="pad", shuffle=False), mode="constant", overhang=5)
    counts = covered(epoch(of), (6, 5), 10)
    assert (counts[:20, :24] == 1).all()
    assert epoch(of).tolist() == [[y, x] for y in (0, 6, 12, 18) for x in (0, 5, 10, 15, 20)]


def test_a_grid_of_boxes_larger_than_the_array() -> None:
    of = loader(Grid(), (30, 5), mode="edge", batch_size=1)
    assert {tuple(origin) for origin in epoch(of)} == {(-5, x) for x in (0, 5, 10, 15, 19)}


def test_a_fixed_list_in_blocks_opens_few_at_a_time() -> None:
    of = loader(Grid(stride=1), batch_size=16, order=Blocks((4, 4), at_once=2))
    for number in range(len(of) - 1):
        assert len(frequencies(of.origins(number) // 4)) <= 4, "two blocks, or four where windows meet"


@pytest.mark.parametrize("order", ["random", Blocks((8, 8), at_once=2)], ids=["random", "blocks"])
def test_a_list_of_boxes(order: Any) -> None:
    origins = RNG.integers(0, 15, (101, 2))
    for sampler in (origins, Listed(origins.tolist())):
        of = loader(sampler, order=order)
        assert sorted(epoch(of).tolist()) == sorted(origins.tolist())
        assert epoch(of).tolist() != epoch(of, 1).tolist()
    if order == "random":
        assert (epoch(loader(Listed(origins, shuffle=False))) == origins).all()


# ---- a user's own


def corner(rng: np.random.Generator, space: Space) -> Any:
    return [rng.integers(0, 3), space.shape[1] - space.box[1]]


def test_a_function_that_makes_origins() -> None:
    of = loader(corner, batch_size=12)
    origins = of.origins(0)
    assert set(frequencies(origins)) == {(0, 19), (1, 19), (2, 19)}
    assert (of.origins(0) == origins).all()
    assert (of.origins(0, 1) != origins).any()
    assert loader(Custom(corner, 77)).boxes == 77


@pytest.mark.parametrize("wrong", [[0, 30], [0, -1], [0.5, 1], [1, 2, 3], "here"])
def test_a_function_that_makes_no_box(wrong: Any) -> None:
    of = loader(lambda rng, space: wrong)
    with pytest.raises(ArgumentError, match=r"box 0 at|not whole numbers"):
        of.origins(0)


class Diagonal:
    """A sampler of one's own, as the protocol has it."""

    def bind(self, space: Space, block: Any) -> Any:
        return self

    count, words, weights = 30, 1, np.array([1.0, 3.0])

    def draw(self, block: np.ndarray, words: np.ndarray) -> np.ndarray:
        place = 5 * block + (words[:, 0] % 5).astype(np.int64)
        return np.stack((place, place), axis=1)


def test_a_sampler_of_ones_own() -> None:
    origins = epoch(loader(Diagonal()))
    assert origins.shape == (30, 2)
    assert (origins[:, 0] == origins[:, 1]).all()
    assert 0 < (origins[:, 0] < 5).sum() < 15


def test_a_sampler_that_gives_too_few_boxes() -> None:
    class Few(Diagonal):
        def draw(self, block: np.ndarray, words: np.ndarray) -> np.ndarray:
            return super().draw(block, words)[1:]

    with pytest.raises(ArgumentError, match="gave 29 boxes where 30"):
        loader(Few()).origins(0)


def test_orders_that_do_not_go_with_a_sampler() -> None:
    with pytest.raises(ArgumentError, match="knows no blocks"):
        loader(corner, order="blocks")
    with pytest.raises(ArgumentError, match="shuffles"):
        loader(Grid(shuffle=False), order="blocks")
    with pytest.raises(ArgumentError, match="neither random nor blocks"):
        loader(None, order="sorted")
    with pytest.raises(ArgumentError, match="at_once=0"):
        loader(None, order=Blocks(at_once=0))


# ---- a function of seed, epoch and number


@pytest.mark.parametrize("order", ORDERS, ids=["random", "blocks"])
@pytest.mark.parametrize("sampler", [Uniform(300), Weighted(LABELS, count=300), Grid(stride=2)])
def test_a_box_depends_on_its_number_alone(sampler: Any, order: Any) -> None:
    of = loader(sampler, order=order, seed=4)
    whole = of.batches.origins_of(np.arange(of.boxes), 2)
    some = RNG.permutation(of.boxes)[:40]
    assert (of.batches.origins_of(some, 2) == whole[some]).all()
    assert (
        loader(sampler, order=order, seed=4, batch_size=7).batches.origins_of(some, 2) == whole[some]
    ).all()
    sent = pickle.loads(pickle.dumps(of)) if not callable(getattr(sampler, "weigh", None)) else of
    assert (sent.batches.origins_of(some, 2) == whole[some]).all()
    assert (loader(sampler, order=order, seed=5).batches.origins_of(some, 2) != whole[some]).any()
    for wrong in ([-1], [of.boxes], [0.5]):
        with pytest.raises(ArgumentError, match="boxes"):
            of.batches.origins_of(wrong, 0)


def test_draws_stay_the_same() -> None:
    """Golden: a seed gives these boxes with every version, or a state of old means something else."""
    assert loader(Uniform(8), batch_size=8, seed=2026).origins(0, 1).tolist() == GOLDEN["random"]
    blocks = loader(Uniform(8), batch_size=8, seed=2026, order=Blocks((8, 8), at_once=2, per_block=2))
    assert blocks.origins(0, 1).tolist() == GOLDEN["blocks"]


GOLDEN = {
    "random": [[7, 18], [12, 5], [14, 16], [4, 9], [2, 8], [2, 17], [10, 0], [9, 3]],
    "blocks": [[11, 6], [14, 0], [12, 10], [10, 15], [4, 1], [2, 2], [14, 9], [10, 15]],
}


# ---- batches and ranks


def numbers(of: Numbering) -> list[list[int]]:
    return [of.boxes(i).tolist() for i in range(of.length)]


@pytest.mark.parametrize("streams", [1, 2, 3, 5, 30])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_the_batches_of_one(world: int, drop_last: bool, streams: int) -> None:
    alone = numbers(Numbering(103, 10, drop_last, 0, 1, streams))
    ranks = [numbers(Numbering(103, 10, drop_last, r, world, streams)) for r in range(world)]
    assert len({len(one) for one in ranks}) == 1, "as many for each rank"
    mixed = [batch for turn in zip(*ranks, strict=True) for batch in turn]
    wanted = alone if not drop_last else alone[: len(mixed)]
    assert mixed[: len(wanted)] == wanted
    assert mixed[len(wanted) :] == alone[: len(mixed) - len(wanted)], "the first ones once more"
    boxes = sorted(box for batch in alone for box in batch)
    assert boxes == list(range(100 if drop_last else 103))


def test_a_stream_stays_in_its_part_of_the_epoch() -> None:
    of = [Numbering(120, 10, False, r, 3, 3) for r in range(3)]
    assert [[batch[0] for batch in numbers(one)] for one in of] == [
        [0, 10, 20, 30],
        [40, 50, 60, 70],
        [80, 90, 100, 110],
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 2.5}, "batch_size=2.5"),
        ({"rank": 2, "world_size": 2}, "rank 2 of 2"),
        ({"rank": -1}, "rank=-1"),
        ({"world_size": 0}, "world_size=0"),
        ({"batch_size": 13, "drop_last": True}, "give 0 whole batches"),
        ({"batch_size": 6, "drop_last": True, "world_size": 3}, "2 whole batches of 6 for 3 ranks"),
    ],
)
def test_ranks_and_batches_that_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        loader(None, **options)
