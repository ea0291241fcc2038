"""PyTorch in eager mode on the CPU: float32 and bfloat16, forward and forward+backward.

Talks with the benchmark as worker.mjs describes.
"""

import os
import sys
import time

problem = dict(argument.split("=", 1) for argument in sys.argv[1:])
for name in ("batch", "tokens", "dim", "hidden", "experts", "slots", "threads"):
    problem[name] = int(problem[name])
os.environ["OMP_NUM_THREADS"] = str(problem["threads"])

try:
    import torch
except ImportError as error:
    print(f"skip not installed for {sys.executable}: {error}", flush=True)
    sys.exit(0)

torch.set_num_threads(problem["threads"])
ALIGNMENT = 4096
dtype = getattr(torch, problem["dtype"])
soft = problem["kind"] == "soft"
trains = problem["pass"] != "forward"
batch, tokens, dim, hidden = (problem[name] for name in ("batch", "tokens", "dim", "hidden"))
experts, slots = problem["experts"], problem["slots"]


def read(path, offset, shape):
    count = 1
    for extent in shape:
        count *= extent
    file = torch.from_file(path, shared=False, size=(offset + 4 * count) // 4, dtype=torch.float32)
    return file[offset // 4 :].reshape(shape).to(dtype, copy=True)


def read_weights():
    layout = [("w1", (experts, dim, hidden)), ("b1", (experts, hidden))]
    layout += [("w2", (experts, hidden, dim)), ("b2", (experts, dim))]
    if soft:
        layout += [("phi", (dim, experts * slots)), ("scale", (1,))]
    weights, offset = {}, 0
    for name, shape in layout:
        weights[name] = read(problem["weights"], offset, shape)
        count = weights[name].numel()
        offset += (4 * count + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
    return weights


weights = read_weights()
if not soft:  # as torch.nn.Linear stores them
    weights["w1"], weights["w2"] = (weights[name][0].t().contiguous() for name in ("w1", "w2"))
    weights["b1"], weights["b2"] = weights["b1"][0], weights["b2"][0]
else:
    weights["b1"], weights["b2"] = (weights[name].unsqueeze(1) for name in ("b1", "b2"))
x = read(problem["input"], 0, (batch, tokens, dim))
if trains:
    for tensor in (x, *weights.values()):
        tensor.requires_grad_(True)


def normalise(a, axis):
    return a / torch.sqrt((a * a).sum(axis, keepdim=True) + 1e-6)


def scaled_phi():
    return weights["scale"] * normalise(weights["phi"], 0)


# In inference Phi is normalised once.
constant_phi = scaled_phi() if soft and not trains else None


def gelu(a):
    return torch.nn.functional.gelu(a, approximate="tanh")


def mlp():
    linear = torch.nn.functional.linear
    return linear(gelu(linear(x, weights["w1"], weights["b1"])), weights["w2"], weights["b2"])


def soft_moe():
    phi = scaled_phi() if constant_phi is None else constant_phi
    logits = normalise(x, 2) @ phi
    filled = logits.softmax(1).transpose(1, 2) @ x
    rows = filled.reshape(batch, experts, slots, dim).transpose(0, 1).reshape(experts, batch * slots, dim)
    act = gelu(torch.baddbmm(weights["b1"], rows, weights["w1"]))
    results = torch.baddbmm(weights["b2"], act, weights["w2"])
    by_slot = results.reshape(experts, batch, slots, dim).transpose(0, 1).reshape(batch, experts * slots, dim)
    return logits.softmax(2) @ by_slot


layer = soft_moe if soft else mlp


def forward():
    with torch.inference_mode():
        return layer()


def forward_backward():
    for tensor in (x, *weights.values()):
        tensor.grad = None
    y = layer()
    (y * y).mean().backward()
    return y


run = forward_backward if trains else forward


def outputs():
    y = run().detach()
    if not trains:
        return [y]
    # The gradients that every backward product has a part in.
    return [y, x.grad, weights["b1"].grad]


run()
print(f"ready PyTorch {torch.__version__.split('+')[0]}", flush=True)
for line in sys.stdin:
    command, _, argument = line.strip().partition(" ")
    if command == "run":
        times = []
        for _ in range(int(argument)):
            start = time.perf_counter()
            run()
            times.append(1e3 * (time.perf_counter() - start))
        print("times", *times, flush=True)
    elif command == "output":
        with open(argument, "wb") as file:
            for tensor in outputs():
                file.write(bytes(tensor.float().contiguous().untyped_storage()))
        print("written", flush=True)
    else:
        break
