from __future__ import annotations

import json
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from rgopd.cli import doctor
from rgopd.cli.checks import Failed
from rgopd.common.embedded import EmbeddedValkey
from rgopd.common.errors import ConfigError, RgopdError
from rgopd.trainer.run.estimate import ModelShape

CHECKPOINTS = Path(str(files("rgopd.trainer.demo") / "checkpoints"))


@pytest.fixture
def student(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CHECKPOINTS / "student", tmp_path / "student"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_the_demos_pair_agrees() -> None:
    pair = (str(CHECKPOINTS / "student"), str(CHECKPOINTS / "teacher"))
    assert "agree" in doctor.check_tokenizers(*pair)
    assert "on both sides" in doctor.check_vocabulary(*pair, 0)
    assert "on both sides" in doctor.check_eos(*pair)
    assert "alike" in doctor.check_chat_template(*pair)


def test_another_vocabulary_size_names_the_setting_and_its_value(student: Path) -> None:
    edit(student / "config.json", vocab_size=200)
    teacher = str(CHECKPOINTS / "teacher")
    smaller = json.loads((CHECKPOINTS / "teacher" / "config.json").read_text())["vocab_size"]
    with pytest.raises(Failed, match=f"set common.shared_vocab_size={smaller}"):
        doctor.check_vocabulary(str(student), teacher, 0)
    with pytest.raises(Failed, match="surplus ids"):
        doctor.check_vocabulary(str(student), teacher, smaller + 1)
    assert f"shared {smaller}" in doctor.check_vocabulary(str(student), teacher, smaller)


def test_a_support_wider_than_the_teachers_is_found_before_the_run() -> None:
    teacher = str(CHECKPOINTS / "teacher")
    vocabulary = json.loads((CHECKPOINTS / "teacher" / "config.json").read_text())["vocab_size"]
    k = {"distillation": {"k": 30}}
    assert "30 ids" in doctor.check_support(k, {"model": teacher})
    with pytest.raises(Failed, match=r"train.distillation.k is 30 and teacher.max_k 20: raise max_k"):
        doctor.check_support(k, {"model": teacher, "max_k": 20})
    with pytest.raises(Failed, match=f"the teacher has {vocabulary} ids: lower k"):
        doctor.check_support({"distillation": {"k": vocabulary + 1}}, {"model": teacher, "max_k": 1024})
    with pytest.raises(Failed, match="the teacher has 29 ids"):
        doctor.check_support(k, {"model": teacher, "shared_vocab_size": 29})


def test_tokens_with_other_ids_are_named(student: Path) -> None:
    tokenizer = json.loads((student / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    one, other = sorted(vocabulary, key=vocabulary.get)[-2:]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    (student / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(Failed, match="2 tokens have other ids"):
        doctor.check_tokenizers(str(student), str(CHECKPOINTS / "teacher"))


def test_another_eos_is_told_with_its_consequence(student: Path) -> None:
    config = json.loads((student / "tokenizer_config.json").read_text())
    edit(student / "tokenizer_config.json", eos_token=config["pad_token"])
    with pytest.raises(Failed, match="grows without end"):
        doctor.check_eos(str(student), str(CHECKPOINTS / "teacher"))


def test_another_chat_template_is_shown_rendered(student: Path) -> None:
    template = student / "chat_template.jinja"
    template.write_text("Q: " + template.read_text())
    with pytest.raises(Failed, match=r"student 'Q: .*copy the teacher's chat_template"):
        doctor.check_chat_template(str(student), str(CHECKPOINTS / "teacher"))


def test_the_longest_answer_must_fit_into_the_students_context(student: Path, tmp_path: Path) -> None:
    """128 positions; a domain's own length counts."""
    data = tmp_path / "rows.jsonl"
    data.write_text('{"prompt": "1+1=", "kind": "math", "reference": "2", "domain": "code"}\n')
    sampling = {"max_new_tokens": 48, "domains": {"code": {"max_new_tokens": 125}}}
    train = {"student": str(student), "dataset": {"path": str(data)}, "sampling": sampling}
    with pytest.raises(
        doctor.Failed, match=r"response of up to 125 \(domain 'code'\) are over .* context of 128: lower"
    ):
        doctor.check_dataset(train)
    del sampling["domains"]
    assert doctor.check_dataset(train).startswith("1 prompts, 0 too long; with its answer the longest has 5")


def test_redis_is_tried_for_real(valkey: EmbeddedValkey) -> None:
    assert "streams work" in doctor.check_redis(valkey.url)
    assert "embedded" in doctor.check_redis("")
    with pytest.raises(RgopdError, match="no Redis answers"):
        doctor.check_redis("redis://127.0.0.1:1/0")


def test_a_redis_that_evicts_is_refused(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path).start()
    try:
        from redis import Redis

        Redis.from_url(server.url).config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(ConfigError, match="set maxmemory-policy noeviction"):
            doctor.check_redis(server.url)
    finally:
        server.stop()


def disk_sections(folder: Path, student: str, **train: Any) -> dict[str, Any]:
    given = {"student": student, "dataset": {"path": "d"}, "output_dir": str(folder), **train}
    return {"teacher": {"model": str(CHECKPOINTS / "teacher")}, "sampler": {"student": student}, "train": given}


def test_a_full_disk_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student = str(CHECKPOINTS / "student")
    found = doctor.check_disk(disk_sections(tmp_path / "runs" / "x", student))
    assert "GiB free" in found
    assert "3 checkpoints of 0.0 GB: 2 kept, one being written" in found
    # A full disk cannot be caused here without filling the machine's.
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 30, 1 << 30, 1000))
    with pytest.raises(Failed, match=r"move train\.output_dir, .*lower train\.checkpoint\.keep"):
        doctor.check_disk(disk_sections(tmp_path, student))


def test_the_disk_a_7b_run_needs_is_counted_from_its_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Qwen2.5-7B: 7.62e9 parameters, 91.4 GB a checkpoint, three at the peak; its files and the teacher's to come."""
    shape = ModelShape(7_615_616_512, 28, 3584, 18944, 3584, 512, 152_064, 233_057_792)
    monkeypatch.setattr(ModelShape, "of", lambda _: shape)
    monkeypatch.setattr("rgopd.cli.disk.size_of", lambda repo: 15_200_000_000 if "7B" in repo.name else 145_400_000_000)
    monkeypatch.setattr("rgopd.cli.disk.bytes_here", lambda repo: 200_000_000)
    sections = disk_sections(tmp_path, "Qwen/Qwen2.5-7B-Instruct", dtype="bfloat16", max_staleness=1)
    sections["teacher"]["model"] = "Qwen/Qwen2.5-72B-Instruct"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 42, 1 << 42, 200_000_000_000))
    with pytest.raises(Failed) as failed:
        doctor.check_disk(sections)
    text = str(failed.value)
    assert "3 checkpoints of 91.4 GB: 2 kept, one being written" in text
    assert "6 policy versions of 15.2 GB" in text
    assert "145.2 GB of Qwen/Qwen2.5-72B-Instruct to download" in text
    assert text.count("GB of Qwen/Qwen2.5-7B-Instruct to download") == 1, "sampler and trainer share the cache"
    (tmp_path / "checkpoints").mkdir()
    with (tmp_path / "checkpoints" / "shard").open("wb") as file:
        file.truncate(182_800_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 42, 1 << 42, 400_000_000_000))
    assert "GiB free" in doctor.check_disk(sections), "a resumed run has two of them already"
    lora = disk_sections(tmp_path / "l", "Qwen/Qwen2.5-7B-Instruct", lora={"r": 16})
    assert "3 checkpoints of 0.5 GB" in doctor.check_disk(lora)


def test_a_model_against_itself_gives_no_loss() -> None:
    assert "nats a token" in doctor.check_zero_loss(str(CHECKPOINTS / "student"), 0)


def test_the_blob_store_is_tried(tmp_path: Path) -> None:
    from rgopd.cli.doctor import check_blobs, checks

    assert "write, read, list and delete" in check_blobs(tmp_path.as_uri())
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    with pytest.raises(ConfigError, match="no such folder here"):
        check_blobs((tmp_path / "none").as_uri())
    assert "blobs" in dict(checks({"common": {"blob_url": tmp_path.as_uri()}}))
    assert "blobs" not in dict(checks({}))
