"""What is known of rows beside their data travels with them."""

import numpy as np
import pytest
import scipy.sparse
from numpy.testing import assert_array_equal

from skdeepfactor import PoissonFactorization
from skdeepfactor._estimator.validation import checked_blocks
from skdeepfactor._math.batch import Wanted
from skdeepfactor._math.ops import dense
from skdeepfactor._training.distributed import Share
from skdeepfactor._training.rows import MatrixRows
from skdeepfactor._training.streams import StreamedRows
from skdeepfactor.data import RowBlocks

X = np.arange(40.0).reshape(20, 2)
# The column of ones says which row a row of it belongs to.
TAGS = scipy.sparse.csr_matrix(np.eye(20)[:, ::-1] + np.eye(20))


def of_matrix(share):
    return MatrixRows(X, share)


def of_stream(share):
    model = PoissonFactorization(2)
    blocks = RowBlocks([X[:7], X[7:8], X[8:]])
    return StreamedRows(checked_blocks(model, blocks, reset=True), share)


@pytest.fixture(params=[of_matrix, of_stream])
def made(request):
    """Rows of a matrix, or of a stream."""
    return request.param


def batches(rows, batch_size=None, side=("tags", "times")):
    wanted = Wanted(1, side=side)
    random = np.random.RandomState(0)
    for part in rows.parts(batch_size, random, wanted):
        if part is not None:
            yield part[0]


@pytest.mark.parametrize("batch_size", [None, 6])
@pytest.mark.parametrize("share", [Share(), Share(1, 3)])
def test_batches_have_what_is_known_of_their_rows(made, share, batch_size):
    rows = made(share).knowing(tags=TAGS, times=np.arange(20.0)[:, np.newaxis])
    rows = rows.knowing(weight=np.arange(20) % 3.0)
    n_seen = 0
    for batch in batches(rows, batch_size):
        numbers = batch.x[:, 0].numpy() / 2
        assert (numbers % 3 != 0).all()
        assert_array_equal(batch.side["times"][:, 0], numbers)
        expected = TAGS[numbers.astype(int)].toarray()
        assert_array_equal(dense(batch.side["tags"]), expected)
        assert_array_equal(batch.weight, numbers % 3)
        n_seen += len(batch)
    assert n_seen == rows.n_samples
    assert next(iter(batches(rows, side=("other",)))).side == {}


def test_rows_held_out_take_theirs_with_them(made):
    rows = made(Share()).knowing(tags=TAGS)
    for part in rows.split(np.array([2, 9, 19])):
        for batch in batches(part):
            numbers = (batch.x[:, 0].numpy() / 2).astype(int)
            assert_array_equal(dense(batch.side["tags"]), TAGS[numbers].toarray())
    held = rows.split(np.array([2, 9, 19]))[1]
    more = held.knowing(more=TAGS[:3])
    assert_array_equal(more.arrays["more"].toarray(), TAGS[:3].toarray())
    assert_array_equal(more.arrays["tags"].toarray(), TAGS[[2, 9, 19]].toarray())


def test_a_start_knows_the_same(made):
    start, arrays = made(Share()).knowing(tags=TAGS).sample(np.random.RandomState(0))
    numbers = (start[:, 0] / 2).astype(int)
    assert_array_equal(arrays["tags"].toarray(), TAGS[numbers].toarray())


def test_digests_tell_it_apart(made):
    other = TAGS.copy()
    other.data[3] += 1
    one, two = (made(Share()).knowing(tags=tags).digests() for tags in (TAGS, other))
    assert one.keys() == two.keys() == {"tags"}
    assert one != two
