"""Which kept weights can matter: those on a kept path from the images to the logits. Data-free.

Example:
  >>> import jax.numpy as jnp
  >>> params = {"first": jnp.ones((2, 3)), "last": jnp.ones((3, 1))}
  >>> apply = lambda params, state, x, train: (jax.nn.relu(x @ params["first"]) @ params["last"], state)
  >>> kept = {"first": jnp.array([[1, 0, 1], [0, 0, 0]], bool), "last": jnp.array([[1], [1], [0]], bool)}
  >>> alive = mask(apply, params, {}, kept, (2,))  # of 4 kept weights, hidden unit 0 has the only path
  >>> masks.num_kept(kept), masks.num_kept(alive), cut_layers(kept, alive)
  (4, 2, ())
"""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rare_gems import masks
from rare_gems.analysis.operands import Operand
from rare_gems.analysis.signals import follow, needed
from rare_gems.models.model import Apply, with_key
from rare_gems.models.platforms import plain_operations
from rare_gems.phase import Mask, ModelState, Params

__all__ = ["cut_layers", "mask", "sparsity"]


def mask(
    apply: Apply, params: Params, state: ModelState, mask: Mask, image_shape: Any, *, constants: bool = False
) -> Mask:
    """The weights of a mask that can matter.

    A weight is alive if it is kept, what it is multiplied with depends on the images, and the logits depend on the
    product. The network is traced once in evaluation mode, and a signal is followed forwards and back through every
    operation, element by element, with all kept weights taken as some positive number: so through residual
    connections, concatenations, pooling, grouped convolutions, norms and any non-linearity, as the network has them.
    A kernel's taps that only ever see padding are dead, too.

    A unit that nothing reaches may still be a constant other than zero, by a bias, by BatchNorm's mean and bias, or by
    sigmoid(0). By default this is no signal: the weights behind such a unit are dead, although they add a constant
    that the next bias, if there is one, could add instead. A constant that multiplies a signal (a gate) does count.

    Args:
      apply, params, state: as in `models.model.Model`; without `constants`, shapes (`jax.ShapeDtypeStruct`) will do.
      mask: bool, in the structure of `masks.ones(params)`.
      image_shape: of one image, without the batch; or a `jax.ShapeDtypeStruct` of a batch of one, for other inputs.
      constants: count with the values of params and state, and constants too: alive is then a kept weight whose factor
        is not always zero and whose product can reach the logits. Setting the others to zero leaves all logits exactly
        as they are.
    Returns:
      a mask of NumPy arrays, within the given one. Where an operation is not known (a loop with an open end, a sort),
      all of its results are taken to depend on all of its operands: what is called dead is dead.
    Raises:
      ValueError: if the network cannot be traced or gone through.
    Example:
      >>> apply = lambda params, state, x, train: (jax.nn.relu(x @ params["w"] + params["b"]) @ params["v"], state)
      >>> params = {"w": jnp.ones((1, 1)), "b": jnp.ones((1, 1)), "v": jnp.ones((1, 1))}
      >>> kept = {"w": jnp.zeros((1, 1), bool), "b": None, "v": jnp.ones((1, 1), bool)}
      >>> [mask(apply, params, {}, kept, (1,), constants=c)["v"].item() for c in (False, True)]
      [False, True]

    Source: effective sparsity of Vysogorets and Kempe (2021), Connectivity Matters: weights that are detached from the
    inputs or the outputs count as removed. Gradients of absolute weights on an image of ones, as SynFlow has them,
    would tell as much where they neither underflow nor overflow.
    """
    return _alive(apply, params, state, mask, image_shape, constants)


def sparsity(
    apply: Apply, params: Params, state: ModelState, mask: Mask, image_shape: Any, *, constants: bool = False
) -> float:
    """The fraction of the prunable weights that is removed or dead: 1 - |alive| / num_prunable.

    Args:
      as in `mask`.
    Example:
      >>> apply = lambda params, state, x, train: (x @ params["a"] @ params["b"], state)
      >>> params = {"a": jnp.ones((1, 2)), "b": jnp.ones((2, 1))}
      >>> kept = {"a": jnp.array([[True, False]]), "b": jnp.array([[True], [True]])}
      >>> masks.sparsity(kept), sparsity(apply, params, {}, kept, (1,))
      (0.25, 0.5)
    """
    return masks.sparsity(_alive(apply, params, state, mask, image_shape, constants))


def cut_layers(mask: Mask, alive: Mask) -> tuple[str, ...]:
    """The names of the layers that let nothing through: none of their weights is alive, in leaf order.

    In a residual network these are branches and shortcuts that are cut (`layer2/0/downsample/conv`); the signal then
    takes the other way.

    Args:
      mask: the kept weights. alive: those of them that can matter, as from `effective.mask`.
    Example:
      >>> cut_layers([np.array([True]), np.array([True])], [np.array([False]), np.array([True])])
      ('0',)
    """
    counts = zip(masks.layer_counts(mask), masks.layer_counts(alive).values(), strict=True)
    return tuple(name for name, (kept, size) in counts if size and not kept)


def _alive(apply: Apply, params: Params, state: ModelState, mask: Mask, image_shape: Any, constants: bool) -> Mask:
    masks.layer_counts(mask)  # refuses what is not bool, or traced
    image = image_shape
    if not isinstance(image_shape, jax.ShapeDtypeStruct):
        image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    kept, treedef = jax.tree.flatten(mask, is_leaf=_is_none)
    pairs = zip(kept, treedef.flatten_up_to(params), strict=True)
    leaves = [(m, leaf) for m, subtree in pairs for leaf in jax.tree.leaves(subtree)]
    leaves += [(None, leaf) for leaf in jax.tree.leaves(state)]
    try:
        with plain_operations(), _on_cpu():
            shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (params, state))
            program = jax.make_jaxpr(lambda *given: with_key(apply)(*given, False)[0])(*shapes, image)
            rng = np.random.default_rng(0)
            values = [_known(m, leaf) if constants else _positive(m, leaf, rng) for m, leaf in leaves]
            given = [Operand(value, np.zeros(np.shape(value), bool)) for value in values]
            given.append(Operand(np.ones(image.shape, image.dtype), np.ones(image.shape, bool)))
            followed = follow(program, given, [m is not None for m, _ in leaves] + [False], constants)
            found = needed(followed, [np.ones_like(out.live) if constants else out.live for out in followed.outs])
    except Exception as error:  # of a network of anybody's
        said = (str(error).strip() or "no message").splitlines()[0]
        raise ValueError(
            f"expected a network that can be traced and followed, got {type(error).__name__}: {said}"
        ) from error
    numbers = iter([number for number in followed.inputs if number is not None])  # of the prunable leaves first
    alive = [None if m is None else np.asarray(m) & found.get(next(numbers), np.zeros(m.shape, bool)) for m in kept]
    return treedef.unflatten(alive)


def _positive(m: Any, leaf: Any, rng: np.random.Generator) -> Any:
    """Some value of which nothing cancels, for weights that are kept and for other params that are zero, as biases and
    the scales of BatchNorm are at first."""
    if not jax.dtypes.issubdtype(leaf.dtype, np.floating):
        return (
            leaf if hasattr(leaf, "__array__") or not isinstance(leaf, jax.ShapeDtypeStruct) else np.zeros(leaf.shape)
        )
    some = rng.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype)
    if m is not None:
        return some * np.asarray(m)
    return some if isinstance(leaf, jax.ShapeDtypeStruct) else np.where(np.asarray(leaf) == 0, some, np.asarray(leaf))


def _known(m: Any, leaf: Any) -> Any:
    """The value that a leaf has."""
    return leaf if m is None else np.where(np.asarray(m), np.asarray(leaf), np.zeros((), leaf.dtype))


def _on_cpu() -> Any:
    """Where it is computed: small operations one by one, which an accelerator would compile for long."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:
        return contextlib.nullcontext()


def _is_none(leaf: Any) -> bool:
    return leaf is None
