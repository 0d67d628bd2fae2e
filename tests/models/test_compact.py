"""Networks without the channels that cannot matter: outputs stay, sizes by hand, constants beside a padded edge."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems import masks
from rare_gems.models.compact import compact
from rare_gems.models.conv_net import conv2
from rare_gems.models.layer_graph import model_of
from rare_gems.models.lenet import lenet_5, lenet_300_100
from rare_gems.models.mobilenet_v2 import mobilenet_v2
from rare_gems.models.network_graphs import graph_of
from rare_gems.models.resnet import resnet20
from rare_gems.models.resnet_imagenet import resnet50
from rare_gems.models.vgg import vgg16
from rare_gems.models.wide_resnet import wide_resnet28_2
from rare_gems.phase import Ticket

CASES = {
    "lenet_300_100": (lenet_300_100(10, input_size=64), (8, 8, 1), 0.98),
    "lenet_5": (lenet_5(image_size=16), (16, 16, 1), 0.98),
    "conv2": (conv2(image_size=8, width=0.25, use_bias=True), (8, 8, 3), 0.95),
    "vgg16": (vgg16(width=0.125, affine=True, use_bias=True), (32, 32, 3), 0.97),
    "resnet20 B": (resnet20(width=0.5, shortcut="B", affine=True, use_bias=True), (8, 8, 3), 0.97),
    "resnet50": (resnet50(10, width=0.0625, affine=True), (16, 16, 3), 0.85),
    "wide_resnet28_2": (wide_resnet28_2(width=0.25, affine=True, use_bias=True), (8, 8, 3), 0.98),
    "mobilenet_v2": (mobilenet_v2(width=0.125, affine=True, use_bias=True), (8, 8, 3), 0.5),
}


def drawn(model, sparsity, seed=0):
    """A random ticket whose outputs depend on the images, with statistics and biases that are not zero."""
    rng = np.random.default_rng(seed)
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    scores = jax.tree.map(lambda m: rng.random(m.shape, np.float32), jax.eval_shape(masks.ones, params))
    every = np.sort(np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(scores)]))
    lowest = every[-masks.count_for(every.size, sparsity)]
    mask = jax.tree.map(lambda leaf: leaf >= lowest, scores)

    def leaf(path, like):
        draw = rng.standard_normal(like.shape, np.float32)
        if path[-1].key == "kernel":
            return draw * np.float32((2 / np.prod(like.shape[:-1]) / (1 - sparsity)) ** 0.5)
        return np.abs(draw) * 0.3 + 0.05 if path[-1].key in ("var", "scale") else draw * np.float32(0.1)

    params, state = jax.tree_util.tree_map_with_path(lambda *of: np.float32(leaf(*of)), (params, state))
    return jax.device_put((Ticket(params, None, mask), state))


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def assert_equal_outputs(model, ticket, state, small, shape):
    """Those of the masked network in evaluation mode, which are returned."""
    x = jax.random.normal(jax.random.key(1), (3, *shape))
    run = jax.jit(lambda apply, *trees: apply(*trees, x, False)[0], static_argnums=0)
    expected = run(model.apply, masks.apply(ticket.params, ticket.mask), state)
    scale = max(1.0, float(jnp.abs(expected).max()))
    np.testing.assert_allclose(run(small.model.apply, small.params, small.state), expected, rtol=0, atol=1e-5 * scale)
    return expected


@pytest.mark.parametrize("name", CASES)
def test_outputs_stay(name):
    model, shape, sparsity = CASES[name]
    ticket, state = drawn(model, sparsity)
    small = compact(ticket, state, name.split()[0])
    expected = assert_equal_outputs(model, ticket, state, small, shape)
    assert np.ptp(expected, 0).max() > 1e-3 * np.abs(expected).max()  # the images matter
    assert size(small.params) < size(ticket.params)
    assert jax.tree.structure(small.params) == jax.tree.structure(ticket.params)
    assert {was > now for was, now in small.channels.values()} == {True, False}


def test_the_layers_are_those_of_the_network_in_training_too():
    model, shape, _ = CASES["resnet20 B"]
    ticket, state = drawn(model, 0.5)
    same = model_of(graph_of("resnet20", ticket.params), ticket.params, state)
    x = jax.random.normal(jax.random.key(1), (3, *shape))
    run = jax.jit(lambda apply, *trees: apply(*trees, x, True), static_argnums=0)
    pairs = zip(*(jax.tree.leaves(run(net.apply, ticket.params, state)) for net in (model, same)), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    shapes = jax.tree.map(jnp.shape, jax.eval_shape(same.init, jax.random.key(0)))
    assert shapes == jax.tree.map(jnp.shape, (ticket.params, state))


def without(mask, path, index):
    """The mask without the weights at an index of one layer."""
    *parents, last = path
    node = mask
    for part in parents:
        node = node[part]
    node[last] = dict(node[last], kernel=node[last]["kernel"].at[index].set(False))


def test_what_leads_nowhere_goes_with_all_before_it():
    model = lenet_300_100(2, input_size=4)
    params, state = model.init(jax.random.key(0))
    mask = masks.ones(params)
    without(mask, ["linear3"], np.s_[7:])  # units of the second layer that nothing reads
    without(mask, ["linear2"], np.s_[20:, :7])  # so that units of the first layer lead nowhere
    small = compact(Ticket(params, None, mask), state, "lenet_300_100")
    assert small.channels == {"linear1": (300, 20), "linear2": (100, 7), "linear3": (2, 2)}
    np.testing.assert_array_equal(small.params["linear2"]["kernel"], params["linear2"]["kernel"][:20, :7])


def test_constants_become_one_channel_and_the_padded_edge_is_kept():
    """The second convolution sees zeros beside a constant map, so that no bias could stand for it."""
    model = conv2(image_size=8, width=0.25, use_bias=True)
    params, state = model.init(jax.random.key(0))
    params["convs"][0]["bias"] = jnp.arange(-3.0, 13.0) / 4  # of 16 channels
    mask = masks.ones(params)
    without(mask, ["convs", 0], np.s_[..., :10])  # three negative, one zero, six constants above zero
    small = compact(Ticket(params, None, mask), state, "conv2")
    assert small.channels["convs/0"] == (16, 7)
    assert_equal_outputs(model, Ticket(params, None, mask), state, small, (8, 8, 3))


def test_a_stream_keeps_what_one_of_its_users_needs():
    model = resnet20(width=0.5)
    params, state = model.init(jax.random.key(0))
    mask, of = masks.ones(params), jax.tree.map(lambda leaf: leaf, state)
    for block in range(3):
        without(mask, ["layer3", block, "conv2"], np.s_[..., [0, 1]])  # no block writes channels 0 and 1
        without(mask, ["layer3", block, "conv1"], np.s_[..., 3])  # and no weight leads to an inner channel
        of["layer3"][block]["bn2"]["mean"] = of["layer3"][block]["bn2"]["mean"].at[1].set(-1.0)  # but 1 has a constant
    small = compact(Ticket(params, None, mask), of, "resnet20")
    # The shortcut of option A begins with 8 zero channels: 0 is always zero, 1 a constant that grows.
    assert small.channels["layer3/0/conv2"] == small.channels["layer3/2/conv2"] == (32, 31)
    assert small.channels["layer3/1/conv1"] == (32, 31)
    assert small.channels["layer2/2/conv2"] == (16, 16)
    assert_equal_outputs(model, Ticket(params, None, mask), of, small, (8, 8, 3))


def test_a_block_without_weights_and_a_network_without_any():
    model = resnet20(width=0.25)
    ticket, state = drawn(model, 0.5)
    mask = jax.tree.map(lambda m: m, ticket.mask)
    without(mask, ["layer2", 1, "conv1"], np.s_[...])
    for of in (mask, jax.tree.map(jnp.zeros_like, mask)):
        small = compact(ticket._replace(mask=of), state, "resnet20")
        assert small.channels["layer2/1/conv1"] == (8, 1)
        assert_equal_outputs(model, ticket._replace(mask=of), state, small, (8, 8, 3))


def test_other_networks_are_refused():
    with pytest.raises(
        ValueError, match=r"a chain or a residual network, one of resnet20, .*, got squeezenet, whose br"
    ):
        graph_of("squeezenet", {})
    with pytest.raises(ValueError, match=r"one of resnet20, .*, got my_networks:linen$"):
        graph_of("my_networks:linen", {})
    with pytest.raises(ValueError, match="expected the params of vgg16, got others"):
        graph_of("vgg16", {})
