"""Topics in groups and slices, rows with priors and masks of their own."""

import numpy as np
import pytest
import torch
from torch.distributions import Dirichlet, kl_divergence

from skdeepfactor._math.allocation import Weights, allocate, expected_counts
from skdeepfactor._math.batch import Batch
from skdeepfactor._math.gammas import dirichlet_kl
from skdeepfactor._math.ops import dense, without_zeros
from skdeepfactor._math.topics import Admixture, Topics, in_slices

N_TOPICS, N_FEATURES = 4, 9
GROUPS = torch.tensor([0, 1, 0, 2, 2, 1, 0, 0, 2])


def made_topics(groups=None, prior=0.3, n_features=N_FEATURES):
    rng = np.random.default_rng(0)
    counts = torch.from_numpy(rng.gamma(0.5, 3.0, (N_TOPICS, n_features)))
    return Topics(counts, torch.as_tensor(prior, dtype=torch.float64), groups)


def made_rows(n_rows=6, seed=1, n_features=N_FEATURES):
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.poisson(1.5, (n_rows, n_features)).astype(float))
    x[1] = 0
    return x


def admixture(topics, *, is_collapsed=False, alpha=0.4):
    alpha = torch.full((N_TOPICS,), alpha, dtype=torch.float64)
    return Admixture(topics, alpha, is_collapsed=is_collapsed)


# Topics.


def test_a_single_group_is_none():
    plain, grouped = made_topics(), made_topics(torch.zeros(N_FEATURES).long())
    torch.testing.assert_close(grouped.mean(), plain.mean())
    torch.testing.assert_close(grouped.mean_log(), plain.mean_log())
    torch.testing.assert_close(grouped.kl(), plain.kl())
    for one, other in (
        (grouped.weights, plain.weights),
        (grouped.collapsed_weights, plain.collapsed_weights),
    ):
        torch.testing.assert_close(one.scaled, other.scaled)
        torch.testing.assert_close(one.log_scale, other.log_scale)


@pytest.mark.parametrize("prior", [0.3, np.linspace(0.1, 2, N_FEATURES)])
def test_topics_in_groups_are_dirichlet_in_each(prior):
    topics = made_topics(GROUPS, prior)
    total = 0.0
    for group in range(3):
        at = GROUPS.eq(group)
        q = Dirichlet(topics.concentration()[:, at])
        torch.testing.assert_close(topics.mean()[:, at], q.mean)
        torch.testing.assert_close(
            topics.mean()[:, at].sum(1), torch.ones(N_TOPICS, dtype=torch.float64)
        )
        p = Dirichlet(topics.prior.expand_as(topics.counts)[:, at])
        total += kl_divergence(q, p).sum()
        expected = torch.digamma(q.concentration)
        expected -= torch.digamma(q.concentration.sum(1, keepdim=True))
        torch.testing.assert_close(topics.mean_log()[:, at], expected)
    torch.testing.assert_close(topics.kl(), total)


def test_weights_are_the_expectations_they_stand_for():
    topics = made_topics(GROUPS)
    weights = topics.weights
    mean_log = weights.scaled.log() + weights.log_scale[:, None]
    torch.testing.assert_close(mean_log.T, topics.mean_log())
    weights = topics.collapsed_weights
    mean = weights.scaled * weights.log_scale[:, None].exp()
    torch.testing.assert_close(mean.T, topics.mean())


def test_a_part_of_the_topics_is_that_part_of_all():
    topics = made_topics(GROUPS)
    some = slice(1, 3), slice(2, 7)
    torch.testing.assert_close(topics.mean_log(*some), topics.mean_log()[some])
    torch.testing.assert_close(
        topics.concentration(*some), topics.concentration()[some]
    )


def test_topics_by_slice_are_those_of_each_slice_alone():
    n_slices, numbers = 3, torch.tensor([2, 0, 1, 2, 0, 1])
    rng = np.random.default_rng(0)
    counts = torch.from_numpy(rng.gamma(0.5, 3.0, (N_TOPICS, n_slices * N_FEATURES)))
    prior = torch.tensor(0.3, dtype=torch.float64)
    groups = torch.arange(n_slices).repeat_interleave(N_FEATURES)
    topics = Topics(counts, prior, groups)
    x = without_zeros(made_rows())
    batch = Batch(in_slices(x, numbers, n_slices))
    options = {"max_steps": 100, "tol": 1e-9}
    rows = admixture(topics)
    found = rows.solve(batch, **options)
    bounds, *_ = rows.bounds(batch, rows.concentration(batch, found))
    kl = 0.0
    for t in range(n_slices):
        at = (numbers == t).nonzero()[:, 0]
        columns = slice(t * N_FEATURES, (t + 1) * N_FEATURES)
        alone = admixture(Topics(counts[:, columns], prior))
        part = Batch(x).take(at)
        expected = alone.solve(part, **options)
        torch.testing.assert_close(found[at], expected)
        concentration = alone.concentration(part, expected)
        torch.testing.assert_close(bounds[at], alone.bounds(part, concentration)[0])
        kl += alone.topics.kl()
    torch.testing.assert_close(topics.kl(), kl)


def test_groups_are_modalities_that_share_their_proportions():
    """The bound of a row is that of words from the topics of each word's group."""
    topics, x = made_topics(GROUPS), made_rows()
    rows, batch = admixture(topics), Batch(x)
    counts = rows.solve(batch, max_steps=100, tol=1e-10)
    q = Dirichlet(rows.concentration(batch, counts))
    mean_log = torch.digamma(q.concentration)
    mean_log -= torch.digamma(q.concentration.sum(1, keepdim=True))
    p = mean_log.exp() @ topics.mean_log().exp()
    kl = kl_divergence(q, Dirichlet(rows.alpha))
    bounds, *_ = rows.bounds(batch, q.concentration)
    torch.testing.assert_close(bounds, (x * p.log()).sum(1) - kl)


# Masks.


def masked(x):
    """A batch whose rows may use some topics, in which one has all and one a single."""
    allowed = torch.tensor(
        [
            [1, 1, 0, 0],
            [0, 1, 0, 1],
            [1, 1, 1, 1],
            [0, 0, 1, 0],
            [1, 0, 1, 1],
            [1, 1, 0, 1],
        ]
    ).bool()
    return Batch(x).with_side(allowed=allowed)


@pytest.mark.parametrize("layout", [dense, without_zeros])
@pytest.mark.parametrize("is_collapsed", [False, True])
@pytest.mark.parametrize("start", [None, "everywhere"])
def test_rows_with_a_mask_are_those_of_the_allowed_topics_alone(
    layout, is_collapsed, start
):
    topics = made_topics()
    rows, batch = (
        admixture(topics, is_collapsed=is_collapsed),
        masked(layout(made_rows())),
    )
    if start is not None:
        start = torch.ones(6, N_TOPICS, dtype=torch.float64)
    counts = rows.solve(batch, start, max_steps=1000, tol=1e-12)
    allowed = batch.side["allowed"]
    assert not counts[~allowed].any()
    concentration = rows.concentration(batch, counts)
    assert not concentration[~allowed].any()
    bounds, allocation, _, _ = rows.expectations(batch, counts)
    assert not allocation.z[~allowed].any()
    for i, at in enumerate(allowed):
        alone = Topics(topics.counts[at], torch.tensor(0.3, dtype=torch.float64))
        own = Admixture(alone, rows.alpha[at], is_collapsed=is_collapsed)
        row = batch.take(torch.tensor([i]))
        row = Batch(row.x)
        first = None if start is None else start[:1, at]
        expected = own.solve(row, first, max_steps=1000, tol=1e-12)
        torch.testing.assert_close(
            counts[i : i + 1, at], expected, atol=1e-9, rtol=1e-7
        )
        bound, *_ = own.bounds(row, own.concentration(row, expected))
        torch.testing.assert_close(bounds[i : i + 1], bound)


def test_a_mask_of_all_topics_is_none():
    rows, x = admixture(made_topics()), made_rows()
    everything = torch.ones(6, N_TOPICS, dtype=torch.bool)
    options = {"max_steps": 1000, "tol": 1e-12}
    plain = rows.solve(Batch(x), **options)
    found = rows.solve(Batch(x).with_side(allowed=everything), **options)
    torch.testing.assert_close(found, plain)


@pytest.mark.parametrize("is_collapsed", [False, True])
def test_rows_may_have_priors_of_their_own(is_collapsed):
    topics, x = made_topics(), made_rows()
    rng = np.random.default_rng(3)
    alpha = torch.from_numpy(rng.gamma(1.0, 1.0, (6, N_TOPICS)) + 0.05)
    batch = Batch(x).with_side(alpha=alpha)
    rows = admixture(topics, is_collapsed=is_collapsed)
    counts = rows.solve(batch, max_steps=1000, tol=1e-12)
    bounds, *_ = rows.bounds(batch, rows.concentration(batch, counts))
    for i in range(6):
        own = Admixture(topics, alpha[i], is_collapsed=is_collapsed)
        row = Batch(x[i : i + 1])
        expected = own.solve(row, max_steps=1000, tol=1e-12)
        torch.testing.assert_close(counts[i : i + 1], expected, atol=1e-9, rtol=1e-7)
        bound, *_ = own.bounds(row, own.concentration(row, expected))
        torch.testing.assert_close(bounds[i : i + 1], bound)


def test_mean_field_updates_climb_the_bound():
    rows, batch = admixture(made_topics(GROUPS)), masked(made_rows())
    counts, last = None, None
    for _ in range(20):
        counts = rows.solve(batch, counts, max_steps=1, tol=0)
        bounds, *_ = rows.bounds(batch, rows.concentration(batch, counts))
        assert last is None or bool((bounds >= last - 1e-10).all())
        last = bounds


def test_a_mask_leaves_entries_out_of_a_divergence():
    rng = np.random.default_rng(0)
    q, p = (torch.from_numpy(rng.gamma(1.0, 1.0, (2, 5))) for _ in range(2))
    allowed = torch.tensor([[1, 0, 1, 1, 0], [1, 1, 1, 1, 1]]).bool()
    total = torch.digamma((q * allowed).sum(1, keepdim=True))
    found = dirichlet_kl(q, torch.digamma(q) - total, p, allowed)
    for i, at in enumerate(allowed):
        expected = kl_divergence(Dirichlet(q[i, at]), Dirichlet(p[i, at]))
        torch.testing.assert_close(found[i], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_allowed_is_not_lost_beside_what_is_not(dtype):
    """The factor that is allowed may be far below the largest one."""
    weights = Weights(torch.ones(3, 2, dtype=dtype), torch.zeros(3, dtype=dtype))
    mean_log = torch.tensor([[0.0, -5000.0]], dtype=dtype)
    x = torch.tensor([[1.0, 0.0, 2.0]], dtype=dtype)
    allocation = allocate(x, mean_log, weights, torch.tensor([[False, True]]))
    assert allocation.row_counts(weights).tolist() == [[0.0, 3.0]]
    assert allocation.log_likelihood(x, weights).tolist() == [-15000.0]


# Derivatives.


@pytest.mark.parametrize("layout", [dense, without_zeros])
def test_derivatives_of_allocated_counts(layout):
    x = layout(made_rows())
    generator = torch.Generator().manual_seed(0)
    z, w = (
        (
            0.1 + torch.rand(n, 3, generator=generator, dtype=torch.float64)
        ).requires_grad_()
        for n in (6, N_FEATURES)
    )
    assert torch.autograd.gradcheck(lambda z, w: expected_counts(x, z, w), (z, w))
    # One of the two may be fixed.
    fixed = w.detach()
    assert torch.autograd.gradcheck(lambda z: expected_counts(x, z, fixed), z)
    fixed_z = z.detach()
    assert torch.autograd.gradcheck(lambda w: expected_counts(x, fixed_z, w), w)


@pytest.mark.parametrize("layout", [dense, without_zeros])
def test_derivatives_through_steps_of_inference(layout):
    x = layout(made_rows())
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(N_FEATURES, 3, generator=generator, dtype=torch.float64)

    def proportions(logits):
        topics = logits.softmax(0)
        theta = torch.full((6, 3), 1 / 3, dtype=torch.float64)
        for _ in range(4):
            theta = 0.2 + expected_counts(x, theta, topics)
        return theta / theta.sum(1, keepdim=True)

    assert torch.autograd.gradcheck(proportions, logits.requires_grad_())


def test_allocated_counts_are_those_of_an_allocation():
    topics, x = made_topics(), without_zeros(made_rows())
    weights = topics.collapsed_weights
    generator = torch.Generator().manual_seed(0)
    theta = 0.1 + torch.rand(6, N_TOPICS, generator=generator, dtype=torch.float64)
    expected = allocate(x, theta.log(), weights).row_counts(weights)
    found = expected_counts(x, theta, topics.mean().T.contiguous())
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found.sum(1), dense(x).sum(1))


def test_nothing_but_sparse_products_of_sparse_rows(monkeypatch):
    """No array of (entries, factors), and none of (rows, features), is made."""
    x = without_zeros(made_rows())

    def refuse(*_, **__):
        raise AssertionError("made dense")

    monkeypatch.setattr(torch.Tensor, "to_dense", refuse)
    z = torch.ones(6, 3, dtype=torch.float64, requires_grad=True)
    w = torch.ones(N_FEATURES, 3, dtype=torch.float64, requires_grad=True)
    shapes = []

    class Shapes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.layout == torch.strided:
                shapes.append(tuple(result.shape))
            return result

    with Shapes():
        expected_counts(x, z, w).sum().backward()
    n_entries = len(x.values())
    assert shapes
    assert not {(n_entries, 3), (3, n_entries), (6, N_FEATURES)} & set(shapes)


@pytest.mark.parametrize("layout", [dense, without_zeros])
@pytest.mark.parametrize("is_collapsed", [False, True])
def test_a_step_shares_the_same_words_out_for_rows_and_topics(layout, is_collapsed):
    rows, batch = (
        admixture(made_topics(), is_collapsed=is_collapsed),
        masked(layout(made_rows())),
    )
    start = rows.solve(batch, max_steps=2, tol=0.0)
    counts, bounds, allocation, weights, mean_log = rows.step(
        batch, start, max_steps=3, tol=0.0
    )
    expected, _, expected_mean_log = rows.bounds(
        batch, rows.concentration(batch, counts)
    )
    torch.testing.assert_close(bounds, expected)
    torch.testing.assert_close(mean_log, expected_mean_log)
    of_words = torch.zeros(N_TOPICS, N_FEATURES, dtype=torch.float64)
    allocation.add_feature_counts(of_words, weights)
    torch.testing.assert_close(of_words.sum(0), batch.x.to_dense().sum(0))
    # Mean-field shares for topics are those of the bound, which is one step on.
    of_rows = counts if is_collapsed else allocation.row_counts(weights)
    torch.testing.assert_close(of_words.sum(1), of_rows.sum(0))
    torch.testing.assert_close(counts, rows.solve(batch, start, max_steps=3, tol=0.0))
