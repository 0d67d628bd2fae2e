"""Stretches of steps: into how few lengths they are cut, and that they always end where something happens."""

import pytest

from rare_gems.training.stretches import Stretches, lengths_of


@pytest.mark.parametrize(
    ("stops", "num_steps", "num_batches"),
    [
        ((), 12, 5),
        (range(2, 13, 2), 12, 6),
        (range(100, 4001, 100), 4000, 391),
        (range(100, 3001, 100), 4000, 391),
        ((1, 2, 5, 11, 12), 12, 12),
    ],
)
def test_pieces_end_at_every_stop_and_have_few_lengths(stops, num_steps, num_batches):
    lengths = lengths_of(stops, num_steps, num_batches)
    assert len(lengths) <= 4
    assert list(lengths) == sorted(lengths, reverse=True)
    own, done, ends, pieces = Stretches(tuple(stops), None, lengths), 0, [], []
    while done < num_steps:
        target = min(num_steps, (done // num_batches + 1) * num_batches)
        pieces.append(own.piece(done, target))
        done += pieces[-1]
        ends.append(done)
    assert set(stops) <= set(ends)
    assert set(range(num_batches, num_steps, num_batches)) <= set(ends)
    assert set(pieces) <= set(lengths)


def test_a_run_that_goes_on_in_the_middle_ends_at_the_next_stop():
    assert Stretches((10, 20), None, (10,)).piece(13, 20) == 7
