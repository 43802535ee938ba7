"""Whether a teacher aligns, and the aligner."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rgopd.common.errors import ConfigError
from rgopd.teacher.alignment.aligner import Aligner
from rgopd.teacher.alignment.side import Side
from rgopd.teacher.tokenizers import load_tokenizer, model_vocabulary

if TYPE_CHECKING:
    from rgopd.teacher.config import TeacherConfig


def make_aligner(config: TeacherConfig, vocab_size: int, *, reads_text: bool = False) -> Aligner | None:
    """What `align` and `student_tokenizer` ask for; None where the student's ids are the teacher's.

    `reads_text`: the engine scores text as its own tokenizer splits it, which a sampled rollout need not be, so that
    `auto` aligns with like tokenizers too.

    Raises:
        ConfigError: a tokenizer that cannot be loaded, or settings that contradict each other.
    """
    if config.align == "off" or (config.align == "auto" and not config.student_tokenizer):
        return None
    if not config.student_tokenizer:
        raise ConfigError("align=always needs student_tokenizer: the student's folder or id")
    always = config.align == "always" or reads_text
    if not always and same_file(config.student_tokenizer, config.model):
        return None
    student = load_tokenizer(config.student_tokenizer, "student_tokenizer")
    teacher = load_tokenizer(config.model, "model")
    if not always and not any(differences(student, teacher)):
        return None
    if config.shared_vocab_size:
        raise ConfigError(
            "shared_vocab_size names ids that student and teacher share, and this teacher has another tokenizer: leave "
            "it out here (the student's own goes to train.shared_vocab_size), or set align=off"
        )
    ends = end_ids(config.student_tokenizer)
    return Aligner(
        Side(student, model_vocabulary(config.student_tokenizer, len(student)), ends), Side(teacher, vocab_size)
    )


def differences(student: Any, teacher: Any) -> tuple[list[str], list[str]]:
    """The student's tokens that have another id in the teacher, and those that it lacks."""
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    return [t for t in ours if t in theirs and ours[t] != theirs[t]], [t for t in ours if t not in theirs]


def same_file(student: str, teacher: str) -> bool:
    """Whether both folders hold the same tokenizer.json: then nothing has to be loaded to know."""
    ours, theirs = Path(student) / "tokenizer.json", Path(teacher) / "tokenizer.json"
    return ours.is_file() and theirs.is_file() and ours.read_bytes() == theirs.read_bytes()


def end_ids(name: str) -> tuple[int, ...]:
    """Ids that end a response by the model's own generation settings."""
    from transformers import GenerationConfig

    try:
        eos = GenerationConfig.from_pretrained(name, local_files_only=Path(name).is_dir()).eos_token_id
    except (OSError, ValueError):
        return ()
    return tuple(eos) if isinstance(eos, list) else () if eos is None else (int(eos),)
