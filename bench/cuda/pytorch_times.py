"""Times PyTorch's products and attention on a GPU at the shapes of operation-times.mjs, by events.

Ends with code 77 and the reason in its last line where there is nothing to time.
"""

import sys

try:
    import torch
except ImportError:
    print('there is no PyTorch here')
    sys.exit(77)
if not torch.cuda.is_available():
    print(f'PyTorch {torch.__version__} finds no CUDA device')
    sys.exit(77)

# tokens, width, hidden width, heads, experts, slots of an expert
MODELS = {
    'S/16 128x1': (196, 384, 1536, 6, 128, 1),
    'B/16 128x1': (196, 768, 3072, 12, 128, 1),
    'L/16 128x1': (196, 1024, 4096, 16, 128, 1),
    'H/14 128x1': (256, 1280, 5120, 16, 128, 1),
    'S/16 16x13': (196, 384, 1536, 6, 16, 13),
    'L/16 16x13': (196, 1024, 4096, 16, 16, 13),
}
REPETITIONS = 20


def random(*shape):
    return torch.randn(shape, device='cuda', dtype=torch.bfloat16)


def report(name, run):
    for _ in range(5):
        run()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(REPETITIONS):
        run()
    end.record()
    torch.cuda.synchronize()
    print(f'{name:46} {1000 * begin.elapsed_time(end) / REPETITIONS:10.1f} us', flush=True)


print(f'# PyTorch {torch.__version__}, {torch.cuda.get_device_name()}')
for model, (tokens, width, hidden, heads, experts, slots) in MODELS.items():
    for batch in (1, 64):
        print(f'\n## {model}, batch {batch}')
        rows = batch * slots
        x, w1 = random(experts, rows, width), random(experts, width, hidden)
        report(f'bmm {experts} x [{rows}, {width}] [{width}, {hidden}]', lambda: torch.bmm(x, w1))
        h, w2 = random(experts, rows, hidden), random(experts, hidden, width)
        report(f'bmm {experts} x [{rows}, {hidden}] [{hidden}, {width}]', lambda: torch.bmm(h, w2))
        del x, w1, h, w2
        tokens_in, w = random(batch * tokens, width), random(width, width)
        report(f'matmul [{batch * tokens}, {width}] [{width}, {width}]', lambda: tokens_in @ w)
        q, k, v = (random(batch, heads, tokens, width // heads) for _ in range(3))
        attention = torch.nn.functional.scaled_dot_product_attention
        report('scaled_dot_product_attention', lambda: attention(q, k, v))
        for operand in (q, k, v):
            operand.requires_grad_()
        y = attention(q, k, v)
        dy = torch.randn_like(y)
        report('its gradient', lambda: torch.autograd.grad(y, (q, k, v), dy, retain_graph=True))
