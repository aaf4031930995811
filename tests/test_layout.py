"""Where rows lie: groups by hand, and for any lengths every token once and in order."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from proper_model.kernels.layout import Group, Layout

LENGTHS = st.lists(st.integers(1, 4), min_size=1, max_size=12)  # few lengths: many neighbours alike


def test_groups_by_hand() -> None:
    layout = Layout.of([3, 7, 7, 1, 7])
    assert layout.lengths == (3, 7, 7, 1, 7)
    assert layout.groups == (
        Group(first=0, rows=1, start=0, length=3),
        Group(first=1, rows=2, start=3, length=7),
        Group(first=3, rows=1, start=17, length=1),
        Group(first=4, rows=1, start=18, length=7),  # as long as others, but no neighbour of theirs
    )
    assert layout.rows.tolist() == [0] * 3 + [1] * 7 + [2] * 7 + [3] + [4] * 7
    assert layout.ends.tolist() == [3, 10, 17, 18, 25]
    assert layout.starts() == [0, 3, 10, 17, 18]
    assert layout.longest == 7
    group = layout.groups[1]
    assert group.tokens == slice(3, 17)
    assert group.of_rows(torch.arange(5)).tolist() == [1, 2]


def test_a_rectangle_is_a_view_of_the_groups_rows() -> None:
    layout = Layout.of([1, 2, 2])
    tokens = torch.arange(10).view(5, 2)
    rectangle = layout.groups[1].rectangle(tokens)
    assert rectangle.tolist() == [[[2, 3], [4, 5]], [[6, 7], [8, 9]]]
    rectangle.zero_()
    assert tokens.tolist() == [[0, 1], *[[0, 0]] * 4]


@given(lengths=LENGTHS)
def test_groups_cover_all_tokens_and_rows_once_in_order(lengths: list[int]) -> None:
    layout = Layout.of(lengths)
    tokens = torch.arange(sum(lengths))
    rows = torch.arange(len(lengths))
    assert torch.equal(torch.cat([tokens[group.tokens] for group in layout.groups]), tokens)
    assert torch.equal(torch.cat([group.of_rows(rows) for group in layout.groups]), rows)


@given(lengths=LENGTHS)
def test_every_row_is_where_its_length_puts_it(lengths: list[int]) -> None:
    layout = Layout.of(lengths)
    tokens = torch.arange(sum(lengths))[:, None]
    found = [row for group in layout.groups for row in group.rectangle(tokens)]
    expected = tokens.split(lengths)
    assert len(found) == len(expected)
    for number, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        assert torch.equal(ours, theirs)
        assert set(layout.rows[theirs[:, 0]].tolist()) == {number}
        assert int(theirs[0]) == layout.starts()[number]
        assert int(theirs[-1]) + 1 == layout.ends[number]


@given(lengths=LENGTHS)
def test_neighbours_of_one_length_share_a_group(lengths: list[int]) -> None:
    groups = Layout.of(lengths).groups
    for before, after in zip(groups, groups[1:], strict=False):
        assert before.length != after.length
    for group in groups:
        assert set(group.of_rows(torch.tensor(lengths)).tolist()) == {group.length}


def test_bounds_of_rows_are_made_once_a_pass() -> None:
    """Every block's attention reads them."""
    layout = Layout.of([3, 1, 1, 4])
    assert layout.bounds().tolist() == [0, 3, 4, 5, 9]
    assert layout.bounds().dtype is torch.int32
    assert layout.bounds() is layout.bounds()
