"""Makes gem_miner.json: GEM-MINER on a two-layer network, in NumPy float64 and by the paper's algorithm alone.

Shares no code with the library. Run `python tests/golden/make_gem_miner.py` to write the file again.
"""

import json
import math
from pathlib import Path

import numpy as np

EPOCHS, STEPS, PERIOD, SPARSITY = 7, 3, 2, 0.8
RATE, MOMENTUM, L2 = 0.5, 0.9, 1e-2


def gradient(weights, images, labels):
    """dL/dw of the mean cross-entropy of relu(x w0) w1."""
    hidden = images @ weights[0]
    active = np.maximum(hidden, 0)
    logits = active @ weights[1]
    odds = np.exp(logits - logits.max(1, keepdims=True))
    error = odds / odds.sum(1, keepdims=True)
    error[np.arange(len(labels)), labels] -= 1
    error /= len(labels)
    return [images.T @ ((error @ weights[1].T) * (hidden > 0)), active.T @ error]


def main():
    rng = np.random.default_rng(20221121)
    shapes = [(6, 10), (10, 4)]
    weights = [np.sign(rng.normal(size=s)) * math.sqrt(2 / s[0]) for s in shapes]
    scores = [rng.random(s).round(4) for s in shapes]
    images = rng.normal(size=(STEPS, 8, 6)).round(3)
    labels = rng.integers(0, 4, size=(STEPS, 8))
    start = {"weights": [w.tolist() for w in weights], "scores": [p.tolist() for p in scores]}
    total = sum(p.size for p in scores)
    rounds = (EPOCHS - 1) // PERIOD
    kept = [np.ones(s, bool) for s in shapes]
    velocity = [np.zeros(s) for s in shapes]
    history = []
    for epoch in range(EPOCHS):
        rate = 0.5 * RATE * (1 + math.cos(math.pi * epoch / EPOCHS))
        for step in range(STEPS):
            seen = [w * (p >= 0.5) * q for w, p, q in zip(weights, scores, kept, strict=True)]
            slopes = gradient(seen, images[step], labels[step])
            for i, (w, g, q) in enumerate(zip(weights, slopes, kept, strict=True)):
                pull = g * w * q + 2 * L2 * scores[i]
                velocity[i] = np.where(q, MOMENTUM * velocity[i] + pull, 0)
                scores[i] = np.where(q, np.clip(scores[i] - rate * velocity[i], 0, 1), scores[i])
        if epoch > 0 and epoch % PERIOD == 0:
            count = round(total * (1 - SPARSITY) ** (epoch // PERIOD / rounds))
            flat = np.concatenate([np.where(q, p, -1).ravel() for p, q in zip(scores, kept, strict=True)])
            top = np.zeros(total, bool)
            top[np.argsort(-flat, kind="stable")[:count]] = True
            ends = np.cumsum([q.size for q in kept])[:-1]
            kept = [part.reshape(s) for part, s in zip(np.split(top, ends), shapes, strict=True)]
            velocity = [v * q for v, q in zip(velocity, kept, strict=True)]
        history.append({"scores": [p.tolist() for p in scores], "mask": [q.astype(int).tolist() for q in kept]})
    golden = {"start": start, "images": images.tolist(), "labels": labels.tolist(), "epochs": history}
    Path(__file__).with_name("gem_miner.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
