"""The parts that a dimension is made of."""

from captum_extract_aggregate._engine.parts import Part, kinds_of, reshaped, size_of

BATCH, CHANNEL = Part("batch", 2), Part("channel", 6)
ROWS, COLUMNS = Part("axis", 4, (1,)), Part("axis", 8, (2,))


def test_kinds_and_sizes():
    assert kinds_of((ROWS, CHANNEL)) == {"axis", "channel"}
    assert size_of((ROWS, COLUMNS)) == 32
    assert size_of(()) == 1


def test_flattening_and_back_keeps_the_parts():
    dims = ((BATCH,), (CHANNEL,), (ROWS,), (COLUMNS,))
    flat = reshaped(dims, (2, 6, 32))
    assert flat == ((BATCH,), (CHANNEL,), (ROWS, COLUMNS))
    assert reshaped(flat, (2, 6, 4, 8)) == dims
    assert reshaped(dims, (2, 1, 6, 4, 8)) == ((BATCH,), (), (CHANNEL,), (ROWS,), (COLUMNS,))


def test_a_dimension_is_cut_into_windows_of_one_axis():
    (outer,), (inner,) = reshaped(((ROWS,),), (2, 2))
    assert (outer, inner) == (Part("axis", 2, (1, 0)), Part("axis", 2, (1, 1)))


def test_what_cuts_through_a_part_is_lost():
    assert reshaped(((CHANNEL,), (ROWS,)), (4, 6)) is None
    assert reshaped(((BATCH,), (CHANNEL,)), (2, 3)) is None
