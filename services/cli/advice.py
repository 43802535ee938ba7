"""Which settings make a run fit that does not: every knob is tried, the gentlest named first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rgopd.common.settings import merge

if TYPE_CHECKING:
    from rgopd.cli.plan import Plan, Planner


FEW_GPUS, MOST_GPUS = 5, 16
"""GPUs advised before weights are offloaded or adapters trained in their place; GPUs advised at all."""


def knobs(plan: Plan) -> Iterator[tuple[str, dict[str, Any]]]:
    """(how to write it, the change) for settings that save memory, gentlest first."""
    train = plan.train
    longest = train.dataset.max_prompt_tokens + train.longest_response
    if not train.gradient_checkpointing:
        yield "train.gradient_checkpointing=true", {"train": {"gradient_checkpointing": True}}
    tokens = train.batch.micro_batch_tokens
    while tokens > longest:
        tokens = max(longest, tokens // 2)
        yield f"train.batch.micro_batch_tokens={tokens}", {"train": {"batch": {"micro_batch_tokens": tokens}}}
    groups = train.sampling.groups_per_request
    while groups > 1:
        groups //= 2
        yield f"train.sampling.groups_per_request={groups}", {"train": {"sampling": {"groups_per_request": groups}}}
    if train.eval.dataset and train.eval.groups_per_request > groups * train.sampling.n:
        few = max(1, train.sampling.n)
        yield f"train.eval.groups_per_request={few}", {"train": {"eval": {"groups_per_request": few}}}
    yield from _narrower(plan)
    if plan.on_gpu:
        yield from _more_gpus(plan, FEW_GPUS)
    yield from _another_run(plan)
    if plan.on_gpu:
        yield from _more_gpus(plan, MOST_GPUS)
    yield from _shorter(plan)


def _narrower(plan: Plan) -> Iterator[tuple[str, dict[str, Any]]]:
    """The same run in fewer bytes a number; what is trained keeps float32 master weights."""
    if plan.sampler_dtype == "float32":
        yield "sampler.dtype=bfloat16", {"sampler": {"dtype": "bfloat16"}}
    if plan.teacher_dtype == "float32":
        yield "teacher.dtype=bfloat16", {"teacher": {"dtype": "bfloat16"}}
    if plan.train.dtype == "float32":
        yield "train.dtype=bfloat16", {"train": {"dtype": "bfloat16"}}
    if plan.teacher_tokens > 2048:
        yield "teacher.max_batch_tokens=2048", {"teacher": {"max_batch_tokens": 2048}}
    if not plan.on_gpu and plan.samplers > 1:
        yield "up.samplers=1", {"up": {"samplers": 1}}


def _another_run(plan: Plan) -> Iterator[tuple[str, dict[str, Any]]]:
    """What changes the run: where weights lie, which are trained, how much is compared."""
    train = plan.train
    if plan.on_gpu and not train.fsdp.cpu_offload:
        yield "train.fsdp.cpu_offload=true", {"train": {"fsdp": {"cpu_offload": True}}}
    if train.lora is None:
        yield "train.lora=16", {"train": {"lora": {"r": 16}}}
    k = train.distillation.k
    while k > 16:
        k = max(16, k // 2)
        yield f"train.distillation.k={k}", {"train": {"distillation": {"k": k}}}


def _shorter(plan: Plan) -> Iterator[tuple[str, dict[str, Any]]]:
    """What changes the task: how long answers get."""
    train = plan.train
    length = train.sampling.longest
    while length > 128:
        length = max(128, length // 2)
        tokens = min(train.batch.micro_batch_tokens, length + train.dataset.max_prompt_tokens)
        shorter = {"max_new_tokens": length} if train.sampling.max_new_tokens > length else {}
        domains = {name: {"max_new_tokens": length} for name in train.sampling.domains
                   if train.sampling.length_of(name) > length}  # fmt: skip
        words = [f"train.sampling.{key}={length}" for key in shorter]
        words += [f"train.sampling.domains.{name}.max_new_tokens={length}" for name in domains]
        text = " --set ".join([*words, f"train.batch.micro_batch_tokens={tokens}"])
        change = {**shorter, **({"domains": domains} if domains else {})}
        yield text, {"train": {"sampling": change, "batch": {"micro_batch_tokens": tokens}}}


def _more_gpus(plan: Plan, most: int) -> Iterator[tuple[str, dict[str, Any]]]:
    ranks, free = plan.train.nproc, max(plan.loads) + 1
    if free + max(ranks, 2 * plan.tensor_parallel) > most:
        return
    sampler = {"up": {"gpus": {"sampler": free}}}
    yield f"up.gpus.sampler={free}", sampler
    train = [*plan.train_gpus, *range(free, free + ranks)]
    gpus = ",".join(map(str, train))
    change = {"train": {"nproc": 2 * ranks}, "up": {"gpus": {"train": gpus}}}
    yield f"train.nproc={2 * ranks} --set up.gpus.train={gpus}", change
    wide = 2 * max(1, plan.tensor_parallel)
    gpus = ",".join(str(n) for n in range(free, free + wide))
    change = {"teacher": {"tensor_parallel_size": wide}, "up": {"gpus": {"teacher": gpus}}}
    yield f"teacher.tensor_parallel_size={wide} --set up.gpus.teacher={gpus}", change


MOST_ADVICE = 6


def advise(planner: Planner, plan: Plan) -> list[str]:
    """Settings that make an overfull plan fit: single ones that suffice, else as many as are needed together."""
    # Shorter answers are another task: they are named only where nothing else suffices.
    gentle = [(text, change) for text, change in knobs(plan) if "max_new_tokens" not in text]
    single = [text for text, change in gentle if not planner.plan(change).overfull]
    if single:
        return [f"--set {text}" for text in _gentlest(single)]
    changes, used = fitting(planner, plan)
    together = " ".join(f"--set {text}" for text in used)
    left = _excess(planner.plan(changes))
    if not left:
        return [f"all of: {together}"]
    return [
        f"a larger device, or a smaller model: no setting suffices, LoRA, bfloat16, offload, K and length among them; "
        f"with all that helps it still lacks {left / (1 << 30):.1f} GiB:",
        together or "(nothing helps)",
    ]


def _gentlest(texts: Sequence[str]) -> list[str]:
    """The first value of each key, that is the one nearest to what is there."""
    first: dict[str, str] = {}
    for text in texts:
        first.setdefault(text.partition("=")[0], text)
    return list(first.values())[:MOST_ADVICE]


def fitting(planner: Planner, plan: Plan) -> tuple[dict[str, Any], list[str]]:
    """Changes, gentlest first, until the plan fits or nothing helps any more; and how to write them."""
    changes: dict[str, Any] = {}
    used: dict[str, str] = {}
    while excess := _excess(plan):
        better = (each for each in knobs(plan) if _excess(planner.plan(merge(changes, each[1]))) < excess)
        if (found := next(better, None)) is None:
            break
        text, change = found
        # What comes next depends on it: which GPUs are free, how far a number was turned down.
        changes = merge(changes, change)
        plan, used[text.partition("=")[0]] = planner.plan(changes), text
    return changes, list(used.values())


def _excess(plan: Plan) -> int:
    return sum(max(0, plan.load(n) - plan.device.memory) for n in plan.loads)
