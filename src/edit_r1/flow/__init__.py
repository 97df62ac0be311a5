"""Flow math: noise schedule, transition kernels, Gaussian log-probability and KL, and one sampler; pure functions.

One convention everywhere: rectified flow x_s = (1 - s) x_0 + s x_1 with the image x_0 at s = 0 and noise x_1 ~ N(0, I)
at s = 1; the model predicts the velocity v = E[x_1 - x_0 | x_s]. The derivations are in `docs/flow.md`.
"""
