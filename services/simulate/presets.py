"""Models, GPUs and calibrations to start from."""

from __future__ import annotations

from rgopd.simulate.costs import (
    Costs,
    Gpu,
    Model,
    SamplerCosts,
    StoreCosts,
    TeacherCosts,
    TrainerCosts,
    VerifierCosts,
    roofline,
)
from rgopd.simulate.workload import Workload

# Shapes from the models' config.json: kv_bytes_token = 2 (K and V) x layers x kv heads x head size x 2 bytes.
MODELS = {
    "qwen2.5-1.5b": Model("Qwen2.5-1.5B", 1.54e9, 1.54e9, 2 * 28 * 2 * 128 * 2),
    "qwen2.5-7b": Model("Qwen2.5-7B", 7.62e9, 7.62e9, 2 * 28 * 4 * 128 * 2),
    "qwen2.5-14b": Model("Qwen2.5-14B", 14.8e9, 14.8e9, 2 * 48 * 8 * 128 * 2),
    "qwen2.5-72b": Model("Qwen2.5-72B", 72.7e9, 72.7e9, 2 * 80 * 8 * 128 * 2),
    "qwen3-235b-a22b": Model("Qwen3-235B-A22B", 235e9, 22e9, 2 * 94 * 4 * 128 * 2),
}
GPUS = {
    "a100": Gpu("A100", 312e12, 2.04e12),
    "h100": Gpu("H100", 989e12, 3.35e12),
    "h200": Gpu("H200", 989e12, 4.8e12, memory=141e9),
}
# student, teacher, GPUs of one teacher replica
PAIRS = {
    "1.5b-14b": ("qwen2.5-1.5b", "qwen2.5-14b", 2),
    "7b-72b": ("qwen2.5-7b", "qwen2.5-72b", 4),
    "7b-moe": ("qwen2.5-7b", "qwen3-235b-a22b", 8),
}

# Measured on a 2-core virtual machine (docs/scaling.md): the bundled Valkey's own CPU time for a rollout's eleven
# messages (0.30 ms) and its bytes (0.41 ms for 472 kB); a sandboxed check.
STORE = StoreCosts(message_s=27e-6, byte_s=0.9e-9)
VERIFY_S = 0.010

# The paper's prompts (UltraInteract) and lengths: 256 rollouts a step for two ranks.
PAPER = Workload(prompts_per_step=32, n=8, groups_per_request=8, mean_tokens=450, max_new_tokens=1024)


def gpu_costs(pair: str, gpu: str, store: StoreCosts = STORE) -> tuple[Costs, int]:
    """Roofline costs of a student and teacher, and the GPUs of one teacher replica. KeyError: an unknown name."""
    student, teacher, teacher_gpus = PAIRS[pair]
    costs = roofline(
        MODELS[student], MODELS[teacher], GPUS[gpu], teacher_gpus=teacher_gpus, verify_s=VERIFY_S, store=store
    )
    return costs, teacher_gpus


def sleeping(
    *, step_s: float, rollout_s: float, teacher_s: float, verify_s: float, train_s: float, store: StoreCosts = STORE
) -> Costs:
    """Costs of engines that only sleep (benchmarks/simulate/noop.py): all of them known, so that what a real run
    differs by is queueing, polling and the store."""
    return Costs(
        "sleeping engines",
        "chosen",
        SamplerCosts(0.0, step_s, rollout_s),
        TeacherCosts(teacher_s, 0.0, 2_048),
        VerifierCosts(verify_s, slots=4),
        TrainerCosts(train_s, 0.0),
        store,
    )
