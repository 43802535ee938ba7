"""`rgopd doctor`: everything that makes a run fail late, checked early. A failed check says what to do."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rgopd.cli.alignment import aligned_checks
from rgopd.cli.checks import Check, Failed, report_checks
from rgopd.cli.models import every_teacher, read_tokenizer, refused_model
from rgopd.cli.redis_check import check_server, check_servers
from rgopd.cli.sections import read_sections
from rgopd.cli.self_teachers import check_self_teacher
from rgopd.cli.teacher_server import check_teacher_server
from rgopd.cli.turns import check_turns, has_turns, try_environments
from rgopd.common import fleeting
from rgopd.common.embedded import EmbeddedValkey
from rgopd.common.errors import RgopdError
from rgopd.common.models import check_model, loading
from rgopd.common.settings import ConfigFiles
from rgopd.teacher.engines.waiting import ELSEWHERE


def run_doctor(config: ConfigFiles, overrides: list[str]) -> int:
    """Print one line a check; returns 1 where any failed."""
    return report_checks(checks(read_sections(config, overrides)))


def checks(sections: dict[str, Any]) -> Iterator[tuple[str, Check]]:
    """The checks that a config's sections call for."""
    yield "config", lambda: check_config(sections)
    redis_url = sections.get("common", {}).get("redis_url", "")
    yield "redis", lambda: check_redis(redis_url)
    if blob_url := str(sections.get("common", {}).get("blob_url", "")):
        yield "blobs", lambda: check_blobs(blob_url)
    yield "sandbox", lambda: check_sandbox(sections.get("verifier", {}))
    common = sections.get("common", {})
    train = {**common, **sections.get("train", {})}
    if refused := refused_model(sections):  # nothing that would load it
        if refused not in _trouble(lambda: check_config(sections)):
            yield "models", lambda: _raise(refused)
        return
    yield "disk", lambda: check_disk(sections)
    student, shared = train.get("student", ""), int(train.get("shared_vocab_size", 0))
    if student:
        yield "dataset", lambda: check_dataset(train)
        if has_turns(train):
            yield "turns", lambda: check_turns(sections)
            yield "environments", lambda: try_environments(sections)
        yield "student", lambda: check_student_rows(train)
        yield "mismatch", lambda: check_mismatch(sections)
        yield "loss", lambda: check_zero_loss(student, shared)
    for name, section in every_teacher(sections).items():
        of = f" of {name}" if name else ""
        for what, check in _teacher_checks({**sections, "teacher": section}, train):
            yield what + of, check


def _teacher_checks(sections: dict[str, Any], train: dict[str, Any]) -> Iterator[tuple[str, Check]]:
    """Those of section `teacher`, one of the run's teachers."""
    served = {**sections.get("common", {}), **sections["teacher"]}
    student, teacher, shared = train.get("student", ""), served.get("model", ""), int(train.get("shared_vocab_size", 0))
    if student and teacher and served.get("source", "checkpoint") != "checkpoint":
        yield "self-teacher", lambda: check_self_teacher(sections)
    across = aligned_checks(sections) if student and teacher else []
    here = served.get("engine") not in ELSEWHERE
    if not here:
        yield "teacher server", lambda: check_teacher_server(sections)
    yield from across
    if across and here:
        yield "support", lambda: check_support(train, sections["teacher"])
    elif student and teacher and not across:
        yield "tokenizer", lambda: check_tokenizers(student, teacher)
        if here:
            yield "vocabulary", lambda: check_vocabulary(student, teacher, shared)
            yield "support", lambda: check_support(train, served)
        yield "eos", lambda: check_eos(student, teacher)
        yield "chat template", lambda: check_chat_template(student, teacher)


def _trouble(check: Check) -> str:
    try:
        check()
    except RgopdError as error:
        return str(error)
    return ""


def _raise(reason: str) -> str:
    raise Failed(reason)


def check_config(sections: dict[str, Any]) -> str:
    """Every section fits its service's settings."""
    from rgopd.cli.checked import check_sections

    check_sections(sections)
    return "all keys are known"


def check_redis(url: str) -> str:
    """A Redis-protocol server answers and knows streams."""
    if not url:
        with tempfile.TemporaryDirectory() as folder:
            server = EmbeddedValkey(Path(folder)).start()
            try:
                return check_server(server.url) + " (embedded; set common.redis_url to use your own)"
            finally:
                server.stop()
    return check_servers(url)


def check_blobs(url: str) -> str:
    """The blob store keeps what is put there, under the first write alone, and gives it back."""
    from rgopd.common.blob_url import open_outside

    return open_outside(url, "doctor", patience_s=5.0).check(wait_s=5.0)


def check_sandbox(section: dict[str, Any]) -> str:
    """The verifier's isolation, probed by attacking it."""
    from rgopd.verifier.config import VerifierConfig
    from rgopd.verifier.main import sandbox_settings
    from rgopd.verifier.sandbox.ladder import NAMES, choose_rung

    config = VerifierConfig.from_mapping(section)
    rung, _ = choose_rung(config.rung, lambda r: sandbox_settings(config, r))
    return f"rung {rung} ({NAMES[rung]}) withstood its attacks"


def check_disk(sections: dict[str, Any]) -> str:
    """Room for the checkpoints at their peak, policy versions, exported students and what the hub has to send."""
    from rgopd.cli.checked import check_sections
    from rgopd.cli.disk import download_needs, run_needs, shortages
    from rgopd.trainer.run.estimate import ModelShape

    train = check_sections(sections)["train"]
    place = fleeting.standing(train.output_dir)
    probe = place / f".rgopd-doctor-{os.getpid()}"  # others may look at the same time
    probe.write_bytes(b"x")
    probe.unlink(missing_ok=True)
    needs = [*run_needs(train, ModelShape.of(train.student)), *download_needs(sections)]
    if short := shortages(needs):
        raise Failed(
            "; ".join(short) + ". Free some, move train.output_dir, train.policies_dir or HF_HOME, lower "
            "train.checkpoint.keep, or train adapters (train.lora)"
        )
    _, free = fleeting.disk(train.output_dir)
    wanted = "; ".join(need.what for need in needs if need.size)
    return f"{free >> 30} GiB free at {place}, for {wanted}"


def _tokenizer(path: str) -> Any:
    return read_tokenizer(path, "model")


def _config(path: str) -> Any:
    from transformers import AutoConfig

    check_model(path, "model")
    with loading("model", path):
        return AutoConfig.from_pretrained(path, trust_remote_code=False).get_text_config()


def check_tokenizers(student: str, teacher: str) -> str:
    """The same ids mean the same tokens on both sides."""
    ours, theirs = _tokenizer(student).get_vocab(), _tokenizer(teacher).get_vocab()
    different = [t for t in ours.keys() & theirs.keys() if ours[t] != theirs[t]]
    missing = [t for t in ours if t not in theirs]
    if different or missing:
        raise Failed(
            f"student and teacher tokenizers differ: {len(different)} tokens have other ids (e.g. {different[:3]}), "
            f"{len(missing)} are missing in the teacher (e.g. {missing[:3]}); set teacher.align=auto to compare them "
            "by their bytes, or choose a teacher of the student's family"
        )
    return f"{len(ours)} tokens agree"


def check_vocabulary(student: str, teacher: str, shared: int) -> str:
    """Padding rows of the larger vocabulary are masked on both sides."""
    ours, theirs = int(_config(student).vocab_size), int(_config(teacher).vocab_size)
    if ours == theirs and not shared:
        return f"{ours} ids on both sides"
    smaller = min(ours, theirs)
    if not shared or shared > smaller:
        raise Failed(
            f"the student has {ours} ids, the teacher {theirs}: set common.shared_vocab_size={smaller}, so that the "
            "surplus ids carry no probability on either side"
        )
    return f"student {ours}, teacher {theirs}, shared {shared}"


def check_support(train: dict[str, Any], section: dict[str, Any]) -> str:
    """The teacher scores as many ids a position as the run asks for; otherwise it refuses the first job."""
    from rgopd.teacher.config import TeacherConfig
    from rgopd.trainer.config import DistillationConfig

    distillation = DistillationConfig.model_validate(train.get("distillation", {}))
    if not (k := distillation.width):
        return "none: the sampled tokens alone"
    max_k = int(section.get("max_k", TeacherConfig.model_fields["max_k"].default))
    vocabulary = int(section.get("shared_vocab_size", 0)) or int(_config(section["model"]).vocab_size)
    if k > max_k:
        raise Failed(f"train.distillation.k is {k} and teacher.max_k {max_k}: raise max_k, or lower k")
    if k > vocabulary:
        raise Failed(f"train.distillation.k is {k}, and the teacher has {vocabulary} ids: lower k")
    return f"{k} ids a position, of at most {min(max_k, vocabulary)}"


def check_eos(student: str, teacher: str) -> str:
    """Both end a response with the same token; otherwise the student learns not to stop."""
    ours, theirs = _tokenizer(student), _tokenizer(teacher)
    if ours.eos_token_id is None:
        raise Failed(f"the student's tokenizer in {student} has no eos_token; set one in tokenizer_config.json")
    if ours.eos_token_id != theirs.eos_token_id:
        raise Failed(
            f"EOS differs: student {ours.eos_token!r} ({ours.eos_token_id}), teacher {theirs.eos_token!r} "
            f"({theirs.eos_token_id}); a base student under an instruct teacher grows without end: use the "
            "instruct student, or set its eos_token to the teacher's"
        )
    return f"{ours.eos_token!r} ({ours.eos_token_id}) on both sides"


def check_chat_template(student: str, teacher: str) -> str:
    """Both were made for prompts written the same way."""
    ours, theirs = _tokenizer(student), _tokenizer(teacher)
    if not ours.chat_template and not theirs.chat_template:
        return "none on either side: prompts are used as they are"
    messages = [{"role": "user", "content": "What is 1+1?"}]
    rendered = [
        t.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) if t.chat_template else None
        for t in (ours, theirs)
    ]
    if rendered[0] != rendered[1]:
        raise Failed(
            f"the chat templates render a prompt differently: student {rendered[0]!r}, teacher {rendered[1]!r}; the "
            "teacher would judge a prompt it was not made for: copy the teacher's chat_template to the student"
        )
    return "both render a prompt alike"


def check_dataset(train: dict[str, Any]) -> str:
    """Rows can be read, rendered and checked, and the longest answers to them fit into the student's context."""
    from rgopd.trainer.config import SamplingConfig
    from rgopd.trainer.prompts.config import DatasetConfig
    from rgopd.trainer.prompts.data import PromptSource

    config = DatasetConfig.model_validate(train.get("dataset", {}))
    sampling = SamplingConfig.model_validate(train.get("sampling", {}))
    source = PromptSource(config, _tokenizer(train["student"]))
    if config.streaming:
        return "the first rows make prompts; the others are read while it trains"
    if not train.get("eval"):
        sampling.check_domains({prompt.domain for prompt in source.prompts})
    context = context_of(train["student"])
    lengths = [(len(p.prompt_ids.data) // 4, sampling.length_of(p.domain), p.domain) for p in source.prompts]
    prompt, response, domain = max(lengths, key=lambda each: each[0] + each[1])
    if prompt + response > context:
        raise Failed(
            f"a prompt of {prompt} tokens and a response of up to {response} (domain {domain!r}) are over the "
            f"student's context of {context}: lower sampling.max_new_tokens (or that of sampling.domains.{domain}), or "
            "dataset.max_prompt_tokens"
        )
    return (
        f"{len(source)} prompts, {source.too_long} too long; with its answer the longest has {prompt + response} tokens"
    )


def context_of(model: str) -> int:
    """Tokens that a model can read; very many where its config names no bound."""
    return int(getattr(_config(model), "max_position_embeddings", None) or 1 << 30)


def tokenizer_of(model: str) -> Any:
    """A model's tokenizer."""
    return _tokenizer(model)


def check_student_rows(train: dict[str, Any]) -> str:
    """What the trainer checks of the student when it loads it, in float32 on the CPU."""
    from transformers.utils.logging import disable_progress_bar

    from rgopd.trainer.config import BatchConfig, SamplingConfig
    from rgopd.trainer.student.anatomy import check_architecture_of
    from rgopd.trainer.student.lora import LoraOptions
    from rgopd.trainer.student.model import Student
    from rgopd.trainer.student.self_check import load_checked

    disable_progress_bar()
    check_architecture_of(train["student"])
    lora = LoraOptions(**train["lora"]) if train.get("lora") else None

    def load(packing: bool) -> Student:
        return Student.load(
            train["student"], shared_vocab_size=int(train.get("shared_vocab_size", 0)), packing=packing, lora=lora
        )

    packing = BatchConfig(**train.get("batch", {})).packing
    student, found = load_checked(
        load, packing=packing, temperature=SamplingConfig(**train.get("sampling", {})).temperature
    )
    rows = "packed rows" if student.packing else "padded rows"
    why = f" ({student.unpacked})" if packing and not student.packing else ""
    return f"{type(student.hf).__name__} on {rows}{why}, {found.drift:.1e} nats a token off the model's own log-probs"


def check_mismatch(sections: dict[str, Any]) -> str:
    """The run's sampler (its engine, its dtype) and the trainer give the same log-probs to the same rollouts."""
    from transformers.utils.logging import disable_progress_bar

    from rgopd.cli.checked import check_sections
    from rgopd.cli.mismatch import ROLLOUTS, mismatch
    from rgopd.common import wire
    from rgopd.trainer.prompts.data import PromptSource

    disable_progress_bar()
    checked = check_sections(sections)
    train, sampler = checked["train"], checked["sampler"]
    source = PromptSource(train.dataset, _tokenizer(train.student))
    drawn = source.of_step(train.seed, 0, ROLLOUTS, 0)
    prompts = [wire.from_tensor(prompt.prompt_ids, "prompt_ids", dtype="int32", ndim=1) for prompt in drawn]
    found = mismatch(train, sampler, prompts)
    limit = train.fault.drift_limit(train.dtype)
    text = (
        f"sampler and trainer are {found.drift:.1e} nats a token apart (at most {found.largest:.1e}; mean ratio "
        f"{found.ratio_mean:.4f}, effective fraction {found.effective_fraction:.4f}; {found.tokens} tokens)"
    )
    if not found.drift <= limit:
        raise Failed(
            f"{text}, over the {limit:g} at which the first step stops (fault.max_drift): give both the same model, "
            "shared_vocab_size and dtype, or sampler.engine=transformers; where they differ on purpose (fp8), raise it "
            "and set train.importance_correction=always"
        )
    return text


def check_zero_loss(student: str, shared_vocab_size: int) -> str:
    """A teacher equal to the student gives loss 0: the teacher's engine and the trainer's head agree."""
    from transformers.utils.logging import disable_progress_bar

    from rgopd.cli.self_distillation import loss_against_itself

    disable_progress_bar()
    loss = loss_against_itself(student, shared_vocab_size)
    if not abs(loss) < 1e-4:
        raise Failed(
            f"student against itself gives a loss of {loss:.3e} nats a token, not 0: engine and trainer disagree "
            "about this model; please report it with the model's config.json"
        )
    return f"student as its own teacher: {loss:.1e} nats a token"
