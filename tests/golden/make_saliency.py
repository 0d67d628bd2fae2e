"""Makes saliency.json: scores and masks of the criteria at initialization, in NumPy float64 from their equations.

A network of three dense layers with biases; gradients by hand, everything of second order by central differences of
them. Shares no code with the library. Run `python tests/golden/make_saliency.py` to write the file again.
"""

import json
import math
from pathlib import Path

import numpy as np

SHAPES = [(6, 10), (10,), (10, 8), (8,), (8, 4), (4,)]
KERNELS = [0, 2, 4]
TEMPERATURE, SPARSITY, FORCE_ROUNDS, SYNFLOW_ROUNDS = 200, 0.9, 4, 3
INNER_STEPS, RATE = 3, 0.5
PROSPR = {"prospr": (0.0, False, False), "prospr_momentum": (0.9, False, False),
          "prospr_first_order": (0.9, True, False), "prospr_split": (0.0, False, True)}  # fmt: skip


def loss_and_gradient(params, images, labels, temperature=1.0):
    """Mean cross-entropy of (relu(relu(x w0 + b0) w1 + b1) w2 + b2) / temperature, and its gradient."""
    w0, b0, w1, b1, w2, b2 = params
    pre0 = images @ w0 + b0
    post0 = np.maximum(pre0, 0)
    pre1 = post0 @ w1 + b1
    post1 = np.maximum(pre1, 0)
    logits = (post1 @ w2 + b2) / temperature
    odds = np.exp(logits - logits.max(1, keepdims=True))
    odds /= odds.sum(1, keepdims=True)
    rows = np.arange(len(labels))
    loss = -np.log(odds[rows, labels]).mean()
    error = odds.copy()
    error[rows, labels] -= 1
    error /= len(labels) * temperature
    back1 = (error @ w2.T) * (pre1 > 0)
    back0 = (back1 @ w1.T) * (pre0 > 0)
    return loss, [images.T @ back0, back0.sum(0), post0.T @ back1, back1.sum(0), post1.T @ error, error.sum(0)]


def snip(params, batches):
    gradients = [loss_and_gradient(params, *batch)[1] for batch in batches]
    return [np.abs(params[i] * sum(g[i] for g in gradients)) for i in KERNELS]


def grasp(params, batch, step=1e-4):
    """w * Hg; H acts on directions within the kernels only, so the biases stand still."""
    slope = loss_and_gradient(params, *batch, TEMPERATURE)[1]
    scale = step / math.sqrt(sum((slope[i] ** 2).sum() for i in KERNELS))
    sides = []
    for sign in (1, -1):
        moved = [p + sign * scale * g * (i in KERNELS) for i, (p, g) in enumerate(zip(params, slope, strict=True))]
        sides.append(loss_and_gradient(moved, *batch, TEMPERATURE)[1])
    return [params[i] * (sides[0][i] - sides[1][i]) / (2 * scale) for i in KERNELS]


def top(scores, count, within):
    flat = np.concatenate([np.where(q, s, -np.inf).ravel() for s, q in zip(scores, within, strict=True)])
    order = np.argsort(-flat, kind="stable")
    assert flat[order[count - 1]] > flat[order[count]] * (1 + 1e-3)  # float32 can tell them apart
    mask = np.zeros(flat.size, bool)
    mask[order[:count]] = True
    ends = np.cumsum([q.size for q in within])[:-1]
    return [part.reshape(q.shape) for part, q in zip(np.split(mask, ends), within, strict=True)]


def masked(params, mask):
    params = list(params)
    for i, q in zip(KERNELS, mask, strict=True):
        params[i] = params[i] * q
    return params


def rounds_of(params, num_rounds, score_of, revive):
    """Scores and mask of each round of an exponential schedule."""
    mask = [np.ones(SHAPES[i], bool) for i in KERNELS]
    everything, total, history = mask, sum(q.size for q in mask), []
    for r in range(num_rounds):
        scores = score_of(masked(params, mask), r)
        before = mask
        mask = top(scores, round(total * (1 - SPARSITY) ** ((r + 1) / num_rounds)), everything if revive else mask)
        back = sum(int((new & ~old).sum()) for new, old in zip(mask, before, strict=True))
        history.append({"scores": tolists(scores), "mask": [q.astype(int).tolist() for q in mask], "revived": back})
    return history


def flow_scores(params):
    """|w| dR/d|w| / R in closed form: R = (((1 |w0| + |b0|) |w1| + |b1|) |w2| + |b2|) 1."""
    w0, b0, w1, b1, w2, b2 = (np.abs(p) for p in params)
    post0 = np.ones(SHAPES[0][0]) @ w0 + b0
    post1 = post0 @ w1 + b1
    back1 = w2.sum(1)
    back0 = w1 @ back1
    total = (post1 @ w2 + b2).sum()
    return [w0 * back0[None] / total, w1 * np.outer(post0, back1) / total, w2 * post1[:, None] / total]


def trained_loss(params, batches, momentum, slopes=None):
    """The loss after INNER_STEPS steps of SGD, and the gradients taken; `slopes`: take these for the gradients."""
    velocity, taken = [0.0] * len(params), []
    for k in range(INNER_STEPS):
        gradient = loss_and_gradient(params, *batches[k])[1] if slopes is None else slopes[k]
        taken.append(gradient)
        velocity = [momentum * v + g for v, g in zip(velocity, gradient, strict=True)]
        params = [p - RATE * v for p, v in zip(params, velocity, strict=True)]
    return loss_and_gradient(params, *batches[-1])[0], taken


def prospr(params, batch, momentum, first_order, split, step=1e-6):
    size = len(batch[1]) // (INNER_STEPS + 1)
    batches = [batch] * (INNER_STEPS + 1)
    if split:
        batches = [tuple(part[k * size : (k + 1) * size] for part in batch) for k in range(INNER_STEPS + 1)]
    slopes = trained_loss(params, batches, momentum)[1] if first_order else None
    scores = []
    for i in KERNELS:
        score = np.zeros(SHAPES[i])
        for index in np.ndindex(*SHAPES[i]):
            sides = []
            for sign in (1, -1):
                moved = [p.copy() for p in params]
                moved[i][index] += sign * step
                sides.append(trained_loss(moved, batches, momentum, slopes)[0])
            score[index] = abs(params[i][index] * (sides[0] - sides[1]) / (2 * step))
        scores.append(score)
    return scores


def tolists(scores):
    return [[[float(f"{x:.9g}") for x in row] for row in s] for s in scores]


def main():
    rng = np.random.default_rng(20221123)
    params = [rng.normal(size=s) * (math.sqrt(2 / s[0]) if len(s) == 2 else 0.3) for s in SHAPES]
    params = [p.round(4) for p in params]
    images = rng.normal(size=(FORCE_ROUNDS, 16, 6)).round(3)
    labels = rng.integers(0, 4, size=(FORCE_ROUNDS, 16))
    batches = list(zip(images, labels, strict=True))

    def force_scores(seen, r):
        gradient = loss_and_gradient(seen, *batches[r])[1]
        return [np.abs(params[i] * gradient[i]) for i in KERNELS]

    golden = {
        "params": [p.tolist() for p in params],
        "images": images.tolist(),
        "labels": labels.tolist(),
        "magnitude": tolists([np.abs(params[i]) for i in KERNELS]),
        "snip": tolists(snip(params, batches[:2])),
        "grasp": tolists(grasp(params, batches[0])),
        "force": rounds_of(params, FORCE_ROUNDS, force_scores, revive=True),
        "iterative_snip": rounds_of(params, FORCE_ROUNDS, force_scores, revive=False),
        "synflow": rounds_of(params, SYNFLOW_ROUNDS, lambda seen, r: flow_scores(seen), revive=False),
    }
    for name, options in PROSPR.items():
        golden[name] = tolists(prospr(params, batches[0], *options))
    Path(__file__).with_name("saliency.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
