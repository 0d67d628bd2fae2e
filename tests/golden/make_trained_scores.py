"""Makes trained_scores.json: methods that train scores, and masks that move in training, in NumPy float64.

Written from the papers alone; shares no code with the library. Run `python tests/golden/make_trained_scores.py` to
write the file again. The network is relu(x w0) w1, with 60 and 40 weights, of which 20 are kept in the end.
"""

import json
import math
from pathlib import Path

import numpy as np

SHAPES = [(6, 10), (10, 4)]
EPOCHS, STEPS, KEPT, KEPT_IN_LAYERS = 4, 3, 20, [12, 8]
MOMENTUM, DECAY = 0.9, 1e-3
EDGE_POPUP_RATE, JACKPOT_RATE, SOFT_RATE, SUPERMASK_RATE, WEIGHTS_RATE = 0.1, 0.02, 0.1, 5.0, 0.05


def gradient(weights, images, labels):
    """dL/dw of the mean cross-entropy."""
    hidden = images @ weights[0]
    active = np.maximum(hidden, 0)
    logits = active @ weights[1]
    odds = np.exp(logits - logits.max(1, keepdims=True))
    error = odds / odds.sum(1, keepdims=True)
    error[np.arange(len(labels)), labels] -= 1
    error /= len(labels)
    return [images.T @ ((error @ weights[1].T) * (hidden > 0)), active.T @ error]


def top(values, count):
    """The mask of the highest: `count` is one number for all layers, or a list with one for each."""
    if isinstance(count, list):
        return [top([v], k)[0] for v, k in zip(values, count, strict=True)]
    flat = np.concatenate([v.ravel() for v in values])
    mask = np.zeros(flat.size, bool)
    mask[np.argsort(-flat, kind="stable")[:count]] = True
    ends = np.cumsum([v.size for v in values])[:-1]
    return [part.reshape(v.shape) for part, v in zip(np.split(mask, ends), values, strict=True)]


def train_scores(start, scores, show, rate, decay=0.0):
    """SGD at a cosine rate; `show(step, scores)` is the mask that the network sees, its derivative by the score, and
    what else pulls at the scores."""
    scores, velocity, history = [s.copy() for s in scores], [np.zeros(s) for s in SHAPES], []
    for step in range(EPOCHS * STEPS):
        epoch = step // STEPS
        factor, slope, pull = show(step, scores)
        seen = [w * f for w, f in zip(start["weights"], factor, strict=True)]
        dense = gradient(seen, start["images"][step % STEPS], start["labels"][step % STEPS])
        for i, (w, g) in enumerate(zip(start["weights"], dense, strict=True)):
            velocity[i] = MOMENTUM * velocity[i] + g * w * slope[i] + pull[i] + decay * scores[i]
            scores[i] = scores[i] - 0.5 * rate * (1 + math.cos(math.pi * epoch / EPOCHS)) * velocity[i]
        if step % STEPS == STEPS - 1:
            history.append([s.copy() for s in scores])
    return scores, history


def nothing():
    return [np.zeros(s) for s in SHAPES]


def edge_popup(start, count_in_epoch, l2=0.0):
    def show(step, scores):
        mask = top([np.abs(s) for s in scores], count_in_epoch[step // STEPS])
        return mask, [np.sign(s) for s in scores], nothing()

    scores, history = train_scores(start, start["scores"], show, EDGE_POPUP_RATE, DECAY + 2 * l2)
    return {"epochs": history, "mask": top([np.abs(s) for s in scores], count_in_epoch[-1])}


def jackpot(start):
    size = [np.abs(w) for w in start["weights"]]
    initial = top(size, KEPT)
    budgets = [int(m.sum()) for m in initial]

    def show(step, scores):
        return top(scores, budgets), [np.ones(s) for s in SHAPES], nothing()

    scores, history = train_scores(start, [np.where(m, 1, 0.99) for m in initial], show, JACKPOT_RATE, DECAY)
    return {"initial": initial, "epochs": history, "mask": top(scores, budgets)}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def continuous_sparsification(start, final=200.0, penalty=1e-2):
    def show(step, scores):
        beta = final ** ((step // STEPS) / (EPOCHS - 1))
        soft = [sigmoid(beta * s) for s in scores]
        slope = [beta * m * (1 - m) for m in soft]
        return soft, slope, [penalty * x for x in slope]

    scores, history = train_scores(start, nothing(), show, SOFT_RATE)
    return {"epochs": history, "mask": top(scores, KEPT)}


def supermask(start, noise):
    """`noise`: U[0, 1), a list of layers for each step."""

    def show(step, scores):
        odds = [sigmoid(s) for s in scores]
        return [u < p for u, p in zip(noise[step], odds, strict=True)], [p * (1 - p) for p in odds], nothing()

    scores, history = train_scores(start, nothing(), show, SUPERMASK_RATE)
    return {"epochs": history, "mask": top(scores, KEPT)}


def train_weights(start, mask, move):
    """SGD at a rate that falls to a tenth after two epochs; `move(done, weights, dense, mask)` -> what stays (the
    others start from zero), the new mask."""
    weights = [np.where(m, w, 0) for w, m in zip(start["weights"], mask, strict=True)]
    velocity, history = nothing(), []
    for step in range(EPOCHS * STEPS):
        dense = gradient(weights, start["images"][step % STEPS], start["labels"][step % STEPS])
        rate = WEIGHTS_RATE * (1 if step // STEPS < 2 else 0.1)
        for i, (g, m) in enumerate(zip(dense, mask, strict=True)):
            velocity[i] = np.where(m, MOMENTUM * velocity[i] + g + DECAY * weights[i], 0)
            weights[i] = weights[i] - rate * velocity[i]
        stay, mask = move(step + 1, weights, dense, mask)
        weights = [np.where(m, w, 0) for w, m in zip(weights, stay, strict=True)]
        velocity = [np.where(m, v, 0) for v, m in zip(velocity, mask, strict=True)]
        history.append(mask)
    return {"steps": history, "weights": weights}


def gmp(start):
    """A pruning after the steps 2, 4, 6, 8 (of 12, until 0.75 of them): 20 + 80 (1 - r / 4)^3."""
    counts = {2 * r: round(KEPT + (100 - KEPT) * (1 - r / 4) ** 3) for r in (1, 2, 3, 4)}

    def move(done, weights, dense, mask):
        if done in counts:
            mask = top([np.where(m, np.abs(w), -1) for w, m in zip(weights, mask, strict=True)], counts[done])
        return mask, mask

    return train_weights(start, [np.ones(s, bool) for s in SHAPES], move)


def rigl(start):
    """Moves after the steps 2, 4, 6, 8, which lie before 0.75 of the 12."""

    def move(done, weights, dense, mask):
        if done % 2 or done >= 9:
            return mask, mask
        moved = [round(0.15 * (1 + math.cos(math.pi * done / 9)) * k) for k in KEPT_IN_LAYERS]
        held = [np.where(m, np.abs(w), -1) for w, m in zip(weights, mask, strict=True)]
        stay = top(held, [k - n for k, n in zip(KEPT_IN_LAYERS, moved, strict=True)])
        grown = top([np.where(m, -1, np.abs(g)) for g, m in zip(dense, stay, strict=True)], moved)
        new = [a | b for a, b in zip(stay, grown, strict=True)]
        return [a & b for a, b in zip(new, mask, strict=True)], new  # what comes back at once keeps its value

    return train_weights(start, start["random"], move)


def shared_out(total, weights, room):
    """Whole shares in proportion to the weights, none above its room: full layers first, then largest remainders."""
    share, full = np.zeros(len(room)), np.zeros(len(room), bool)
    while True:
        open_weights = np.where(full, 0, weights)
        share = np.where(full, room, (total - sum(np.array(room)[full])) * open_weights / open_weights.sum())
        if not (share > room).any():
            break
        full |= share > room
    counts = np.floor(share).astype(int)
    for i in np.argsort(counts - share, kind="stable")[: total - counts.sum()]:
        counts[i] += 1
    assert (counts <= room).all()
    return list(map(int, counts))


def moved(mask, stay, scores, grown):
    """What stays and what grows: the older part of the new mask, and the new mask."""
    free = [np.where(m, -1, s) for s, m in zip(scores, stay, strict=True)]
    new = [a | b for a, b in zip(stay, top(free, grown), strict=True)]
    return [a & b for a, b in zip(new, mask, strict=True)], new


def snfs(start, smoothing=0.9, fraction=0.5):
    """Moves after the steps 2, 4, 6, 8 and 10 of 12."""
    momentum = nothing()

    def move(done, weights, dense, mask):
        for i, g in enumerate(dense):
            momentum[i] = smoothing * momentum[i] + (1 - smoothing) * g
        if done % 2 or done >= EPOCHS * STEPS:
            return mask, mask
        kept = [int(m.sum()) for m in mask]
        share = fraction / 2 * (1 + math.cos(math.pi * done / (EPOCHS * STEPS)))
        gone = [min(round(share * k), k - 1) for k in kept]
        weight = [np.abs(x[m]).mean() for x, m in zip(momentum, mask, strict=True)]
        held = [np.where(m, np.abs(w), -1) for w, m in zip(weights, mask, strict=True)]
        stay = top(held, [k - n for k, n in zip(kept, gone, strict=True)])
        room = [m.size - int(m.sum()) for m in stay]
        return moved(mask, stay, [np.abs(x) for x in momentum], shared_out(sum(gone), np.array(weight), room))

    return train_weights(start, start["random"], move)


def dsr(start, noise, threshold=0.2, wanted=3.0):
    """Moves after the steps 2, 4, 8 of 12: the period doubles after half of them. `noise`: U[0, 1) for each step."""
    now = [threshold]

    def move(done, weights, dense, mask):
        if done % (2 if done < 6 else 4) or done >= 11:
            return mask, mask
        size = [np.where(m, np.abs(w), -1) for w, m in zip(weights, mask, strict=True)]
        left = [max(1, int((s >= now[0]).sum())) for s in size]
        stay = top(size, left)
        gone = sum(int(m.sum()) for m in mask) - sum(left)
        now[0] *= 2 if gone < 0.9 * wanted else 0.5 if gone > 1.1 * wanted else 1
        room = [m.size - k for m, k in zip(mask, left, strict=True)]
        return moved(mask, stay, noise[done - 1], shared_out(gone, np.array(left, float), room))

    return train_weights(start, start["random"], move)


def deep_r(start, normal, noise, *, l1, temperature, cooling, scope="layer"):
    """Rewires after the steps 1 to 8 of 12. `normal`: N(0, 1), `noise`: U[0, 1), lists of layers for each step."""
    sign = [np.where(w >= 0, 1, -1) for w in start["weights"]]

    def move(done, weights, dense, mask):
        if done >= 9:
            return mask, mask
        late = (done - 1) // STEPS >= 2
        rate, heat = WEIGHTS_RATE * (0.1 if late else 1), temperature * (0.1**cooling if late else 1)
        for i, (w, m) in enumerate(zip(weights, mask, strict=True)):
            theta = sign[i] * w - rate * l1 + math.sqrt(2 * rate * heat) * normal[done - 1][i]
            weights[i] = np.where(m & (theta >= 0), sign[i] * theta, 0)
        stay = [m & (s * w >= 0) & (w != 0) for m, s, w in zip(mask, sign, weights, strict=True)]
        gone = [int(m.sum() - n.sum()) for m, n in zip(mask, stay, strict=True)]
        return moved(mask, stay, noise[done - 1], gone if scope == "layer" else sum(gone))

    return train_weights(start, start["random"], move)


def plain(tree):
    if isinstance(tree, dict):
        return {name: plain(part) for name, part in tree.items()}
    if isinstance(tree, list):
        return [plain(part) for part in tree]
    return (tree.astype(int) if tree.dtype == bool else tree).tolist()


def main():
    rng = np.random.default_rng(20221122)
    start = {
        "weights": [rng.normal(scale=math.sqrt(2 / s[0]), size=s).round(4) for s in SHAPES],
        "scores": [(rng.uniform(-1, 1, size=s) / math.sqrt(s[0])).round(4) for s in SHAPES],
        "images": list(rng.normal(size=(STEPS, 8, 6)).round(3)),
        "labels": list(rng.integers(0, 4, size=(STEPS, 8))),
        "random": top([rng.random(s) for s in SHAPES], KEPT_IN_LAYERS),
    }
    falling = [round(100 * 0.2 ** (r / 3)) for r in (1, 1, 2, 3)]  # a round an epoch, the first from the start
    golden = {
        "start": start,
        "layer": edge_popup(start, [KEPT_IN_LAYERS] * EPOCHS),
        "global": edge_popup(start, [KEPT] * EPOCHS),
        "gradual": edge_popup(start, falling, l2=1e-2),
        "jackpot": jackpot(start),
        "continuous_sparsification": continuous_sparsification(start),
        "gmp": gmp(start),
        "rigl": rigl(start),
        "snfs": snfs(start),
    }
    Path(__file__).with_name("trained_scores.json").write_text(json.dumps(plain(golden)) + "\n")


if __name__ == "__main__":
    main()
