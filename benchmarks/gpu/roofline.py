"""What a card could do on paper: seconds from FLOPs and bytes, printed beside what was measured.

A product takes FLOPs / practical TFLOP/s, a pass takes bytes / bandwidth, nothing overlaps and nothing is launched.
A measured figure far above its prediction has a cause to look for; one below it means the prediction forgot a cache.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.gpu.shapes import Shape


@dataclass(frozen=True)
class Card:
    """Dense bfloat16 and memory of one GPU."""

    name: str
    peak_tflops: float
    """Of the data sheet: what MFU is a share of."""
    practical_tflops: float
    """Of large products as cuBLAS does them."""
    tb_s: float

    def product(self, flops: float) -> float:
        return flops / self.practical_tflops / 1e12

    def traffic(self, bytes_: float) -> float:
        return bytes_ / self.tb_s / 1e12


H100 = Card("H100", 989, 700, 3.35)
CARDS = {
    "H100 PCIe": Card("H100 PCIe", 756, 530, 2.0),
    "H100": H100,
    "H200": Card("H200", 989, 700, 4.8),
    "A100": Card("A100", 312, 250, 2.0),
}


def card_of(name: str) -> Card:
    """By a device's name; an unknown one is compared with an H100."""
    return next((card for words, card in CARDS.items() if all(w in name for w in words.split())), H100)


def head_floor(card: Card, rows: int, vocab: int, hidden: int) -> float:
    """Forward, dX and dW."""
    return card.product(6.0 * rows * vocab * hidden)


def head_plain(card: Card, rows: int, vocab: int, hidden: int) -> float:
    """Full logits by PyTorch's operators: written, widened, log-softmax, and the same back: 34 bytes a logit."""
    return head_floor(card, rows, vocab, hidden) + card.traffic(34.0 * rows * vocab)


def head_ours(card: Card, rows: int, vocab: int, hidden: int, active: float = 1.0, products: float = 3.0) -> float:
    """Narrowed logits written once, and their gradient in place, for the active rows; decision 024.

    `products` 4: the logits are made twice. Inactive rows take the forward product alone.
    """
    flops = 2.0 * rows * vocab * hidden * (1 + (products - 1) * active)
    return card.product(flops) + card.traffic(rows * vocab * (2.0 + 4.0 * active))


def train_flops(shape: Shape, lengths: list[int], response_tokens: int) -> float:
    """Forward and backward of a step: 6 a parameter and token, the head on response rows, causal attention.

    Activations that are made again are not counted: MFU is of what the step needs.
    """
    return 3 * forward_flops(shape, lengths, response_tokens)


def forward_flops(shape: Shape, lengths: list[int], rows: int) -> float:
    """2 a body parameter and token, the head on `rows`, and attention over the lower triangle."""
    attention = sum(2.0 * shape.layers * shape.heads * shape.head_dim * n * n for n in lengths)
    return 2.0 * shape.body * sum(lengths) + 2.0 * shape.hidden * shape.vocab * rows + attention


def optimizer_s(card: Card, parameters: int) -> float:
    """AdamW: weight and two moments read and written, the gradient read, in float32."""
    return card.traffic(28.0 * parameters)


def decode_s(card: Card, shape: Shape, rows: int, context: int) -> float:
    """One token of every row: all weights once, every row's keys and values once, bf16; its logits, float64 draw."""
    cache = 4.0 * shape.layers * shape.kv_heads * shape.head_dim * context * rows
    return card.traffic(2.0 * shape.parameters + cache + 40.0 * rows * shape.vocab)
