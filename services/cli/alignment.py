"""What `up` tells services of each other; a teacher with another tokenizer: what it refuses, what `doctor` says."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rgopd.cli.turns import check_templates
from rgopd.common.errors import ConfigError

if TYPE_CHECKING:
    from rgopd.teacher.alignment import Aligner
    from rgopd.teacher.config import TeacherConfig
    from rgopd.trainer.config import TrainConfig

PROMPTS, NEW_TOKENS = 4, 48
"""What doctor looks at: so many answers of the student, each so long."""


def name_student_tokenizer(sections: dict[str, Any]) -> None:
    """Tell the teacher whose rollouts it scores, where the config leaves that open."""
    teacher = sections.get("teacher", {})
    student = sections.get("train", {}).get("student") or sections.get("common", {}).get("student")
    if teacher.get("model") and student:
        teacher.setdefault("student_tokenizer", student)


def name_lora_rank(sections: dict[str, Any]) -> None:
    """Tell the samplers that they will be given adapters, where the config leaves that open."""
    lora = sections.get("train", {}).get("lora")
    if isinstance(lora, dict) and lora.get("publish") == "adapter":
        sections.setdefault("sampler", {}).setdefault("lora_rank", int(lora.get("r", 16)))


def aligner_of(teacher: TeacherConfig, student: str) -> Aligner | None:
    """What this teacher will align with; None where it shares the student's ids, or is a vLLM that runs elsewhere.

    Raises:
        ConfigError: it cannot be made.
    """
    from rgopd.teacher.alignment import make_aligner
    from rgopd.teacher.tokenizers import model_vocabulary

    config = teacher.model_copy(update={"student_tokenizer": teacher.student_tokenizer or student})
    if not config.model or config.engine == "vllm-server":
        return None
    return make_aligner(config, model_vocabulary(config.model, 0))


def aligns(train: TrainConfig, teacher: TeacherConfig) -> bool:
    """Whether the teacher has another tokenizer, and scores the student across it.

    Raises:
        ConfigError: it has, and the run's loss cannot use that; says what to change.
    """
    aligner = aligner_of(teacher, train.student)
    if aligner is None:
        return False
    check_templates(train.environments, aligner.teacher.tokenizer, "teacher")
    objective = train.build_objective()
    reason = ""
    if not objective.aligns:
        reason = f"objective {objective.name!r} (take reverse_kl, rg_opd, or a weighted_sum of them)"
    elif train.distillation.support == "teacher":
        reason = "distillation.support='teacher' (set student)"
    elif train.distillation.support == "student" and train.distillation.tail != "tail":
        reason = f"distillation.tail={train.distillation.tail!r} (set tail: ids that the teacher lacks go there)"
    if reason:
        raise ConfigError(
            f"student and teacher tokenizers differ, and {reason} cannot work across them; or choose a teacher of the "
            "student's family"
        )
    return True


def measured(sections: dict[str, Any], aligner: Aligner) -> str:
    """How much of the student's own answers the teacher can judge token by token. Loads the student."""
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM

    from rgopd.common import wire
    from rgopd.teacher.items import PAD_ID
    from rgopd.trainer.config import DistillationConfig
    from rgopd.trainer.prompts.config import DatasetConfig
    from rgopd.trainer.prompts.data import PromptSource

    train = sections["train"]
    k = DistillationConfig.model_validate(train.get("distillation", {})).k
    source = PromptSource(DatasetConfig.model_validate(train["dataset"]), aligner.student.tokenizer)
    model = AutoModelForCausalLM.from_pretrained(train["student"], dtype="auto", trust_remote_code=False).eval()
    tokens = covered = paired = 0
    mass: list[float] = []
    torch.manual_seed(0)
    with torch.inference_mode():
        for prompt in (source.at(0, position) for position in range(PROMPTS)):
            ids = torch.from_numpy(wire.from_tensor(prompt.prompt_ids, "prompt_ids").astype(np.int64))[None]
            room = int(getattr(model.config.get_text_config(), "max_position_embeddings", 1 << 20)) - ids.shape[1]
            made = model.generate(
                ids, do_sample=True, top_k=0, max_new_tokens=max(1, min(NEW_TOKENS, room)), attention_mask=ids >= 0
            )
            response_T = made[0, ids.shape[1] :].numpy().astype(np.int32)
            logits_TV = model(made).logits[0, ids.shape[1] - 1 : -1].float()
            top = logits_TV.softmax(-1).topk(min(k, logits_TV.shape[1]), dim=-1)
            alignment, _ = aligner.align(response_T, top.indices.numpy().astype(np.int32))
            rows = alignment.pairs_M2[:, 0]
            assert alignment.support_ids_TK is not None
            mapped = alignment.support_ids_TK[rows] != PAD_ID
            tokens += len(response_T)
            covered += int((alignment.aligned_T >= 0).sum())
            paired += len(rows)
            mass += (top.values.numpy()[rows] * mapped).sum(1).tolist()
    share = aligner.describe("")
    if not covered:
        raise ConfigError(
            "the teacher's tokenizer cannot say what the student writes, byte for byte (it rewrites its input, or "
            "lacks the characters): choose another teacher"
        )
    return (
        f"different ones, aligned by their bytes: {share['mapped_ids']} of {share['student_ids']} ids have a "
        f"counterpart; of {tokens} tokens that the student wrote, {covered / tokens:.0%} have a value of the teacher, "
        f"{paired / tokens:.0%} map one to one, and there {sum(mass) / max(1, len(mass)):.1%} of the student's mass is "
        "on ids with a counterpart"
    )


def aligned_checks(sections: dict[str, Any]) -> list[tuple[str, Callable[[], str]]]:
    """Doctor's, in place of those of one shared tokenizer; none where it is shared."""
    from rgopd.teacher.config import TeacherConfig

    common = {k: v for k, v in sections.get("common", {}).items() if k in TeacherConfig.model_fields}
    try:
        teacher = TeacherConfig.from_mapping({**common, **sections.get("teacher", {})})
        aligner = aligner_of(teacher, sections["train"]["student"])
    except ConfigError as error:
        reason = str(error)

        def refused() -> str:
            raise ConfigError(reason)

        return [("tokenizer", refused)]
    if aligner is None:
        return []
    return [
        ("tokenizer", lambda: measured(sections, aligner)),
        ("eos", lambda: _ends(aligner)),
        ("chat template", lambda: _prompt(sections, aligner)),
    ]


def _ends(aligner: Aligner) -> str:
    student, teacher = aligner.student, aligner.teacher
    if teacher.end is None or not student.ends:
        raise ConfigError(
            "a side has no token that ends an answer, so that the student cannot learn when to stop: set eos_token in "
            f"the tokenizer_config.json of the {'teacher' if teacher.end is None else 'student'}"
        )
    names = ", ".join(repr(student.tokens[i].decode()) for i in sorted(student.ends))
    return f"the student's {names} counts as the teacher's {teacher.tokens[teacher.end].decode()!r}"


def _prompt(sections: dict[str, Any], aligner: Aligner) -> str:
    import json

    from rgopd.trainer.prompts.config import DatasetConfig
    from rgopd.trainer.prompts.data import PromptSource
    from rgopd.trainer.prompts.environments import environments_named

    dataset = DatasetConfig.model_validate(sections["train"]["dataset"])
    source = PromptSource(dataset, aligner.student.tokenizer)
    check_templates(environments_named(dataset), aligner.teacher.tokenizer, "teacher")
    for position in reversed(range(PROMPTS)):
        prompt = source.at(0, position)
        tools = json.loads(prompt.environment.tools_json or "[]")
        ids = aligner.teacher.prompt(json.loads(prompt.messages_json), tools)
    return f"the teacher reads its own: {aligner.teacher.tokenizer.decode(ids)!r}"
