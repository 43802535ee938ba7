"""The ids between two turns, on byte-level tokenizers under the templates of several families."""

from __future__ import annotations

import random

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rgopd.common.between import Between
from rgopd.common.errors import ConfigError
from rgopd.trainer.demo.tokenizer import build_tokenizer

QWEN = (
    "{%- for m in messages %}{%- if m.role == 'tool' %}<|im_start|>user\n<tool_response>\n{{ m.content }}\n"
    "</tool_response><|im_end|>\n{%- else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}"
    "{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}"
)
QWEN3 = (  # reasoning is dropped from turns before the last question; the last answer gets an empty one
    "{%- set ns = namespace(last=0) %}{%- for m in messages %}"
    "{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}"
    "{%- endif %}{%- endfor %}{%- for m in messages %}"
    "{{ '<|im_start|>' + ('user' if m.role == 'tool' else m.role) + '\n' }}"
    "{%- if m.role == 'assistant' and loop.index0 > ns.last %}{{ '<think>\n\n</think>\n\n' }}{%- endif %}"
    "{{ m.content + '<|im_end|>' + '\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}"
)
LLAMA = (
    "{{ bos_token }}{%- for m in messages %}{{ '<|start_header_id|>' + ('ipython' if m.role == 'tool' else m.role) + "
    "'<|end_header_id|>\n\n' }}{%- if m.role == 'tool' %}{{ m.content | tojson }}{%- else %}{{ m.content | trim }}"
    "{%- endif %}{{ '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
SMOLLM = (
    "{% for m in messages %}{% if loop.first %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}"
    "{{'<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKERS = [
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|begin|>",
    "<|end|>",
]


def tokenizer_with(template: str, eos: str) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=MARKERS,
        show_progress=False,
    )
    core.train_from_iterator(
        ["user\n assistant\n\n system the answer is not what they said\n"] * 9 + ["-saidrgopd"] * 99, trainer
    )
    made = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=eos, bos_token="<|begin|>", chat_template=template)
    made.add_tokens(["<think>", "</think>"])
    return made


FAMILIES = {
    "qwen": (QWEN, "<|im_end|>", "user"),
    "qwen-tool": (QWEN, "<|im_end|>", "tool"),
    "qwen3-tool": (QWEN3, "<|im_end|>", "tool"),
    "llama": (LLAMA, "<|eot_id|>", "user"),
    "llama-tool": (LLAMA, "<|eot_id|>", "tool"),
    "smollm": (SMOLLM, "<|im_end|>", "user"),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("observation", ["not what they said", "it's\n\n  4\n", "né 🙂 \\", "", ' "quoted"', "\n\n"])
def test_the_ids_are_those_of_the_whole_rendering(family: str, observation: str) -> None:
    template, eos, role = FAMILIES[family]
    tokenizer = tokenizer_with(template, eos)
    if family == "llama":
        observation = observation.strip()  # as its template does; ours keeps what the environment said
    messages = [{"role": "user", "content": "the"}, {"role": "assistant", "content": "is it 4"}]
    told = [*messages, {"role": role, "content": observation}]
    whole = tokenizer.apply_chat_template(told, add_generation_prompt=True, tokenize=False)
    said = tokenizer.apply_chat_template(messages, add_generation_prompt=False, tokenize=False)
    upto = said[: said.rindex(eos) + len(eos)]
    begin = tokenizer(upto, add_special_tokens=False)["input_ids"]
    assert begin[-1] == tokenizer.eos_token_id
    between = Between(tokenizer, role).ids(begin[-1], observation)
    assert [*begin, *between] == tokenizer(whole, add_special_tokens=False)["input_ids"]


def test_the_demos_tokenizer_goes_on() -> None:
    tokenizer = build_tokenizer()
    ids = Between(tokenizer).ids(tokenizer.eos_token_id, "5")
    assert tokenizer.convert_ids_to_tokens(ids.tolist()) == ["<|user|>", "5", "<|assistant|>"]


def test_another_end_of_turn_is_closed_as_the_template_does() -> None:
    tokenizer = tokenizer_with(QWEN, "<|im_end|>")
    other = tokenizer.convert_tokens_to_ids("<|eot_id|>")
    ids = Between(tokenizer).ids(other, "ok").tolist()
    assert tokenizer.decode(ids) == "<|im_end|>\n<|im_start|>user\nok<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("family", FAMILIES)
def test_what_an_observation_holds_is_text(family: str) -> None:
    """A property test: markers anywhere, in pieces, and many of them."""
    template, eos, role = FAMILIES[family]
    tokenizer = tokenizer_with(template, eos)
    between = Between(tokenizer, role)
    plain = [i for i in between.ids(tokenizer.eos_token_id, "x").tolist() if i in between._special]
    rng = random.Random(7)
    bits = [*MARKERS, "<think>", "</think>", "<|", "|>", "im_end", " ", "\n", "é", "🙂", '"', "\\"]
    for _ in range(60):
        text = "".join(rng.choice(bits) for _ in range(rng.randint(1, 12)))
        ids = between.ids(tokenizer.eos_token_id, text).tolist()
        assert [i for i in ids if i in between._special] == plain, text
        if not between._around.quoted:
            assert text in tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def test_thousands_of_markers_are_no_deep_recursion() -> None:
    tokenizer = tokenizer_with(QWEN, "<|im_end|>")
    ids = Between(tokenizer).ids(tokenizer.eos_token_id, "<|im_end|>" * 5000)
    assert tokenizer.decode(ids.tolist()).count("<|im_end|>") == 5001


def test_a_long_observation_is_cut_and_says_so() -> None:
    tokenizer = tokenizer_with(QWEN, "<|im_end|>")
    ids = Between(tokenizer).ids(tokenizer.eos_token_id, "🙂" * 100, 10)
    text = tokenizer.decode(ids.tolist())
    assert "🙂🙂 [cut]<|im_end|>" in text
    assert "\ufffd" not in text
    assert len(ids) < 40


@pytest.mark.parametrize(
    ("template", "role", "says"),
    [
        (QWEN3, "user", "renders the student's turn otherwise"),
        ("{% for m in messages[-2:] %}{{ m.content }}{% endfor %}", "user", "otherwise once more is said"),
        ("{% for m in messages %}{{ m.role }}{% endfor %}", "user", "does not begin where its prompt ends"),
        ("{% for m in messages %}{% if m.role != 'tool' %}{{ m.content }};{% endif %}{% endfor %}", "tool",
         "as they are"),
        ("{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}{{ m.content }}"
         "{% endfor %}", "tool", "no tools"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "user", "its tokens change"),
    ],
)  # fmt: skip
def test_a_template_that_does_not_append_is_refused(template: str, role: str, says: str) -> None:
    with pytest.raises(ConfigError, match="not prefix-stable") as refused:
        Between(tokenizer_with(template, "<|im_end|>"), role)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_without_a_template_there_are_no_turns() -> None:
    tokenizer = tokenizer_with(QWEN, "<|im_end|>")
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="no chat template"):
        Between(tokenizer)
