"""Encoders and decoders against the same networks written by hand."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_allclose, assert_array_equal

from skdeepfactor._math.batch import to_tensor
from skdeepfactor._math.networks import Decoder, Encoder, Layers


def seeded(seed, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def filled(module, device, seed=0):
    """The module with random parameters, biases too, in float64."""
    rng = np.random.default_rng(seed)
    for parameter in module.parameters():
        parameter.data = torch.from_numpy(rng.normal(size=parameter.shape))
    return module.to(device)


def rows(n_rows=6, n_features=9, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.poisson(0.7, (n_rows, n_features)) * rng.uniform(0.5, 2, n_features)
    X[2] = 0
    return X


def both_layouts(X, device):
    return [
        to_tensor(x, slice(None), dtype=torch.float64, device=device)
        for x in (X, sp.csr_matrix(X))
    ]


def arrays(parameters):
    return [parameter.detach().cpu().numpy() for parameter in parameters]


def by_hand(layers, x, skipped=None):
    for index, (weight, bias) in enumerate(
        zip(arrays(layers.weights), arrays(layers.biases), strict=True)
    ):
        if index > 0:
            x = np.maximum(x, 0)
            if skipped is not None:
                x = np.concatenate([x, skipped], 1)
        x = x @ weight + bias
    return x


@pytest.mark.parametrize("widths", [[9, 2], [9, 5, 2], [9, 5, 4, 2]])
def test_layers_are_linear_with_relu_between(widths, device):
    layers = filled(Layers(widths), device)
    X = rows()
    for x in both_layouts(X, device):
        outputs = layers(x).detach().cpu()
        assert_allclose(outputs, by_hand(layers, X), rtol=1e-12)


def test_skipped_inputs_go_into_every_later_layer(device):
    layers = filled(Layers([9, 5, 4, 2], n_skipped=3), device)
    assert [tuple(w.shape) for w in layers.weights] == [(9, 5), (8, 4), (7, 2)]
    X = rows()
    skipped = np.random.default_rng(1).normal(size=(6, 3))
    x, _ = both_layouts(X, device)
    outputs = layers(x, torch.from_numpy(skipped).to(device)).detach().cpu()
    assert_allclose(outputs, by_hand(layers, X, skipped), rtol=1e-12)


def test_layers_take_particles(device):
    layers = filled(Layers([3, 5, 2]), device)
    z = torch.randn(4, 6, 3, generator=seeded(0), dtype=torch.float64).to(device)
    outputs = layers(z)
    assert outputs.shape == (4, 6, 2)
    for part, output in zip(z, outputs, strict=True):
        assert_allclose(layers(part).detach().cpu(), output.detach().cpu(), rtol=1e-12)


def test_gradients_of_csr_and_dense_rows_agree(device):
    layers = filled(Layers([9, 5, 2]), device)
    gradients = []
    for x in both_layouts(rows(), device):
        outputs = layers(x)
        weights = torch.arange(12, device=device).view(6, 2)
        parameters = list(layers.parameters())
        gradients.append(torch.autograd.grad((outputs * weights).sum(), parameters))
    for dense, sparse in zip(*gradients, strict=True):
        assert dense.abs().max() > 0.1
        assert_allclose(dense.cpu(), sparse.cpu(), rtol=1e-10, atol=1e-12)


def test_initial_weights_have_the_scale_of_their_place():
    layers = Layers([300, 200, 400, 100])
    layers.initialize(seeded(0), input_scale=0.7, output_scale=0.1)
    scales = [0.7, np.sqrt(2 / 200), 0.1 * np.sqrt(2 / 400)]
    for weight, bias, scale in zip(
        arrays(layers.weights), arrays(layers.biases), scales, strict=True
    ):
        # Of n draws, the relative error of their standard deviation is 1 / sqrt(2 n).
        assert abs(weight.std() / scale - 1) < 4.5 / np.sqrt(2 * weight.size)
        assert abs(weight.mean()) < 4.5 * scale / np.sqrt(weight.size)
        assert (bias == 0).all()


def test_initial_weights_come_from_the_generator():
    before = torch.get_rng_state()
    weights = []
    for seed in (3, 3, 4):
        encoder = Encoder(9, (5,), 2, dropout=0.0)
        encoder.initialize(seeded(seed))
        weights.append(
            np.concatenate([a.ravel() for a in arrays(encoder.parameters())])
        )
    assert_array_equal(weights[0], weights[1])
    assert (weights[0] != weights[2]).any()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("hidden", [(), (5,), (5, 4)])
def test_encoder_gives_means_and_log_variances(hidden, device):
    encoder = filled(Encoder(9, hidden, 2, dropout=0.5), device).eval()
    X = rows() / 10
    expected = by_hand(encoder.layers, X)
    for x in both_layouts(X, device):
        mean, log_var = encoder(x)
        assert_allclose(mean.detach().cpu(), expected[:, :2], rtol=1e-12)
        clipped = expected[:, 2:].clip(-12, 6)
        assert_allclose(log_var.detach().cpu(), clipped, rtol=1e-12)


def test_log_variances_stay_within_limits(device):
    encoder = filled(Encoder(9, (5,), 2, dropout=0.0), device)
    encoder.layers.weights[-1].data *= 1e6
    x, _ = both_layouts(rows(40), device)
    mean, log_var = encoder(x)
    assert log_var.min() == -12
    assert log_var.max() == 6
    assert mean.abs().max() > 1e4


def test_a_fresh_encoder_is_near_the_prior():
    X = rows(50, 200)
    X /= np.linalg.norm(X, axis=1, keepdims=True).clip(1e-9)
    encoder = Encoder(200, (400, 400), 10, dropout=0.4).double().eval()
    encoder.initialize(seeded(0))
    mean, log_var = encoder(torch.from_numpy(X))
    assert 0 < mean.std() < 0.3
    assert 0 < log_var.std() < 0.3


def test_dropout_is_for_training_alone(device):
    encoder = filled(Encoder(9, (5,), 2, dropout=0.5), device)
    for x in both_layouts(rows(), device):
        encoder.train()
        draws = [encoder(x, seeded(seed, device))[0] for seed in (0, 0, 1)]
        assert torch.equal(draws[0], draws[1])
        assert (draws[0] != draws[2]).any()
        encoder.eval()
        assert torch.equal(encoder(x)[0], encoder(x, seeded(0, device))[0])


def test_dropout_draws_from_its_generator_alone():
    encoder = filled(Encoder(9, (5,), 2, dropout=0.5), "cpu").train()
    x, _ = both_layouts(rows(), "cpu")
    before = torch.get_rng_state()
    encoder(x, seeded(0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dropout", [0.2, 0.6])
def test_dropped_inputs_are_made_up_for_by_those_kept(dropout, device):
    """A network that passes its inputs on shows what became of them."""
    encoder = Encoder(6, (), 3, dropout=dropout).double().train().to(device)
    encoder.layers.weights[0].data = torch.eye(6).double().to(device)
    encoder.layers.biases[0].data.zero_()
    n_rows = 4000
    X = np.zeros((n_rows, 6))
    X[:, :2] = [1.0, 2.0]
    for x in both_layouts(X, device):
        seen = encoder(x, seeded(0, device))[0].detach().cpu().numpy()
        kept = seen[:, :2] > 0
        assert_allclose(seen[:, :2][kept], (X[:, :2] / (1 - dropout))[kept])
        error = np.sqrt(dropout * (1 - dropout) / n_rows)
        assert (abs(kept.mean(0) - (1 - dropout)) < 4.5 * error).all()
        assert abs(np.corrcoef(kept.T)[0, 1]) < 4.5 / np.sqrt(n_rows)
        assert (seen[:, 2] == 0).all()


def test_linear_decoder(device):
    decoder = filled(Decoder(3, (), 7, has_skips=True), device)
    assert decoder.is_linear
    assert not decoder.has_skips
    z = torch.randn(4, 6, 3, generator=seeded(0), dtype=torch.float64)
    weight, bias = arrays([decoder.weight, decoder.bias])
    expected = z.numpy() @ weight.T + bias
    logits = decoder(z.to(device)).detach().cpu()
    assert_allclose(logits, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("has_skips", [False, True])
@pytest.mark.parametrize("layers", [(5,), (5, 4)])
def test_deep_decoder(layers, has_skips, device):
    decoder = filled(Decoder(3, layers, 7, has_skips=has_skips), device)
    assert not decoder.is_linear
    z = torch.randn(6, 3, generator=seeded(0), dtype=torch.float64)
    skipped = z.numpy() if has_skips else None
    h = np.maximum(by_hand(decoder.hidden, z.numpy(), skipped), 0)
    if has_skips:
        h = np.concatenate([h, z.numpy()], 1)
    weight, bias = arrays([decoder.weight, decoder.bias])
    logits = decoder(z.to(device))
    expected = h @ weight.T + bias
    assert_allclose(logits.detach().cpu(), expected, rtol=1e-11, atol=1e-12)
    particles = decoder(z[None].repeat(2, 1, 1).to(device))
    assert_allclose(particles[1].detach().cpu(), expected, rtol=1e-11, atol=1e-12)


def test_squared_norm_is_that_of_the_weights_of_features(device):
    linear = filled(Decoder(3, (), 7, has_skips=False), device)
    deep = filled(Decoder(3, (5, 4), 7, has_skips=True), device)
    for decoder in (linear, deep):
        expected = (decoder.weight**2).sum().item()
        assert decoder.squared_norm().item() == pytest.approx(expected, rel=1e-12)
